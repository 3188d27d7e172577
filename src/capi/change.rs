//! Changes of whole weights, of rows, of norms and biases: their file, out and in.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::guard::guard;
use super::handle::get;
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::text;
use super::LLAMA_ALIGN_OK;
use crate::adapter::{export_changes, export_rows, import_changes, Factor, RowChange, METHOD};
use crate::error::{Error, Kind, Result};
use crate::gguf::{File, Value};
use crate::train::DeltaKind;
use std::ffi::c_char;
use std::path::Path;

fn rows(factors: &[Factor]) -> Result<Vec<RowChange>> {
    let rows: Option<Vec<RowChange>> = factors.iter().map(RowChange::of_factor).collect();
    rows.ok_or_else(|| Error::new(Kind::Internal, "rows have lost their places"))
}

impl AdapterObject {
    fn save_change(&self, path: &Path) -> Result<()> {
        // Under the lock as long as the file is written: whole weights have no second copy.
        let factors = self.factors();
        let lineage = self.lineage(&factors.method);
        match self.delta {
            DeltaKind::Rows => export_rows(&rows(&factors.lora.factors)?, &lineage, path),
            DeltaKind::Lora if factors.changes.is_empty() => {
                Err(argument("adapter: factors are all that moves; llama_align_adapter_save() writes them"))
            }
            DeltaKind::Lora | DeltaKind::Full => export_changes(&factors.changes, &lineage, path),
        }
    }

    fn load_change(&self, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let found = import_changes(&file, self.model.file()?)?;
        let mut factors = self.idle()?;
        let other = |weight: &str| {
            let message = format!("{}: it changes {weight}, which the adapter does not move", path.display());
            Error::new(Kind::Mismatch, message)
        };
        if self.delta == DeltaKind::Rows {
            let mut own = rows(&factors.lora.factors)?;
            for change in &found {
                let row = own.iter_mut().find(|row| row.weight == change.weight);
                row.ok_or_else(|| other(&change.weight))?.take(change)?;
            }
            factors.lora.factors = own.iter().map(RowChange::to_factor).collect();
        } else {
            let moves = |weight: &str| factors.changes.iter().any(|own| own.weight == weight);
            if let Some(change) = found.iter().find(|change| !moves(&change.weight)) {
                return Err(other(&change.weight));
            }
            for change in found {
                if let Some(own) = factors.changes.iter_mut().find(|own| own.weight == change.weight) {
                    *own = change;
                }
            }
        }
        if let Some(method) = file.get(METHOD).and_then(Value::as_str) {
            method.clone_into(&mut factors.method);
        }
        Ok(())
    }
}

/// Writes the changes of whole weights, of rows, or of norms and biases beside factors, in F32, as the program's runs leave them:
/// `change.gguf`, which llama_align_fold_files() and `llama-align merge --change` put into a model. The file is complete under its name,
/// or what was there before stays. Callback-safe; a trainer's next step waits until it is written. `path` (borrowed): not NULL. Errors:
/// ARGUMENT (also where factors are all that moves), MISSING (the directory), IO, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_save_change(
    adapter: *const llama_align_adapter,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        adapter.save_change(Path::new(unsafe { text(path, "path") }?))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Takes over the changes of such a file, to go on with them; weights that it does not hold keep theirs. The reference of a trainer that
/// is made afterwards is the model with them. `adapter`: no trainer moves it, and it moves all that the file changes. `path` (borrowed):
/// not NULL. Errors: ARGUMENT, MISSING, IO, FORMAT (no file of changes), MISMATCH (another model's, or what the adapter does not move),
/// NUMERIC, UNSUPPORTED (a model that was attached without its file), BUSY (a trainer moves the adapter), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_load_change(
    adapter: *mut llama_align_adapter,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        adapter.load_change(Path::new(unsafe { text(path, "path") }?))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}
