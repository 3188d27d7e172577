//! Writes one of the tests' tiny random models: `tiny_model NAME TYPE OUT.gguf`, such as `tiny_model llama-tied q8_0 m.gguf`.

#[allow(dead_code)] // the tests use more of it
#[path = "../it/tiny/mod.rs"]
mod tiny;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, ty, path] = arguments.as_slice() else { anyhow::bail!("usage: tiny_model NAME TYPE OUT.gguf") };
    let known = tiny::all();
    let found = known.iter().find(|tiny| tiny.name() == *name);
    let names = || known.iter().map(tiny::Tiny::name).collect::<Vec<_>>().join(", ");
    let model = found.ok_or_else(|| anyhow::anyhow!("no tiny model is called {name}; there are {}", names()))?;
    let types = [quant::Type::F32, quant::Type::F16, quant::Type::Q8_0, quant::Type::Q4_1, quant::Type::Q4_0];
    let ty = types.into_iter().find(|t| t.name().eq_ignore_ascii_case(ty));
    let ty = ty.ok_or_else(|| anyhow::anyhow!("the type must be f32, f16, q8_0, q4_1 or q4_0"))?;
    model.write(std::path::Path::new(path), ty)?;
    Ok(())
}
