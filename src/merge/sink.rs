//! Where a tensor's bytes go.

use crate::error::Result;
use crate::gguf::Stream;
use quant::Type;

/// The file, memory from where they go on to the file, or nowhere.
pub(super) enum Sink<'a> {
    Nowhere,
    /// The tensor of this number in the file.
    File(&'a mut Stream, usize),
    Memory(Vec<Vec<u8>>),
}

impl Sink<'_> {
    /// Begins the tensor, or begins it anew, as this type.
    pub(super) fn begin(&mut self, ty: Type) -> Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(stream, index) => stream.begin(*index, ty),
            Self::Memory(pieces) => {
                pieces.clear();
                Ok(())
            }
        }
    }

    /// The next bytes.
    pub(super) fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(stream, _) => stream.write(bytes),
            Self::Memory(pieces) => {
                pieces.push(bytes);
                Ok(())
            }
        }
    }

    /// True if nothing comes of the bytes.
    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Nowhere)
    }
}
