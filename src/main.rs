//! scratch
use llama_align::*;
fn main() {
    let rt = runtime::Runtime::linked().unwrap();
    for path in std::env::args().skip(1) {
        let short = path.rsplit('/').next().unwrap().to_owned();
        let model = match runtime::Model::open(&rt, std::path::Path::new(&path)) { Ok(m) => m, Err(e) => { println!("{short}: OPEN {e}"); continue } };
        let trace = match trace::trace(&model) { Ok(t) => std::sync::Arc::new(t), Err(e) => { println!("{short}: TRACE {e}"); continue } };
        match check::check(&model, &trace, 2) { Ok(r) => println!("{short}: {} rf {:e} tf {:.1e} {} blocks? unsupported {:?} trainable {}", if r.ok {"ok"} else {"FAIL"}, r.runtime_form.max_abs_diff, r.training_form.max_rel_diff, r.training_form.worst_block, r.unsupported.first(), r.trainable.len()), Err(e) => println!("{short}: CHECK {e}") }
    }
}
