//! A program's weights, decoded from the bytes of the model's file.

use super::Array;
use llama_align::gguf::File;
use llama_align::ir::Program;
use std::rc::Rc;

/// Every weight of the program, by `WeightId`.
pub(crate) fn decode(program: &Program, file: &File) -> Rc<Vec<Array>> {
    let decoded = program.weights.iter().map(|info| {
        let tensor = file.tensor(&info.name).unwrap_or_else(|| panic!("{} is not in the file", info.name));
        let ne = tensor.ne.map(|n| n as usize);
        assert_eq!((tensor.ty, ne), (info.ty, info.ne.map(|n| n as usize)), "{}", info.name);
        let mut values = vec![0.0f32; ne.iter().product()];
        let rows =
            file.data(tensor).chunks_exact(tensor.ty.row_bytes(tensor.ne[0]).expect("rows are whole blocks") as usize);
        for (bytes, row) in rows.zip(values.chunks_exact_mut(ne[0])) {
            quant::dequantize_row(tensor.ty, bytes, row).unwrap_or_else(|e| panic!("{}: {e}", info.name));
        }
        Array::new(ne, values.into_iter().map(f64::from).collect())
    });
    Rc::new(decoded.collect())
}
