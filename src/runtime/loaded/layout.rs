//! The C layout of a struct of parameters that is passed by value, and its comparison with what the runtime itself wrote.

use std::fmt;

/// Room for a struct whose size is not known: larger than any that llama.cpp had.
///
/// Structs of more than two words travel in memory (System V and AArch64 alike): the callee writes or reads as many bytes of
/// it as its own struct has.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Params([u64; WORDS]);

const WORDS: usize = 64;
const BYTES: usize = WORDS * 8;

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("params")
    }
}

impl Params {
    /// All bytes alike.
    pub(super) fn filled(byte: u8) -> Self {
        Self([u64::from_ne_bytes([byte; 8]); WORDS])
    }

    fn bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Overwrites bytes from `offset` on; what lies outside is dropped, which no layout asks for.
    pub(super) fn put(&mut self, offset: usize, value: &[u8]) {
        let mut bytes = self.bytes();
        if let Some(target) = bytes.get_mut(offset..offset + value.len()) {
            target.copy_from_slice(value);
        }
        for (word, chunk) in self.0.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            *word = u64::from_ne_bytes(value);
        }
    }
}

/// A field and the value that `*_default_params()` gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    default: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Pointers, which are NULL, and sizes.
    Word(usize),
}

/// `int32_t`, `uint32_t` or an enum.
pub(super) const fn int(name: &'static str, default: i32) -> Field {
    Field { name, default: Value::I32(default) }
}

/// `float`.
pub(super) const fn float(name: &'static str, default: f32) -> Field {
    Field { name, default: Value::F32(default) }
}

/// `bool`.
pub(super) const fn flag(name: &'static str, default: bool) -> Field {
    Field { name, default: Value::Bool(default) }
}

/// A pointer (NULL by default) or `size_t`.
pub(super) const fn word(name: &'static str) -> Field {
    Field { name, default: Value::Word(0) }
}

impl Field {
    fn default_bytes(&self) -> Vec<u8> {
        match self.default {
            Value::I32(v) => v.to_ne_bytes().to_vec(),
            Value::F32(v) => v.to_ne_bytes().to_vec(),
            Value::Bool(v) => vec![u8::from(v)],
            Value::Word(v) => v.to_ne_bytes().to_vec(),
        }
    }
}

/// Fields at their places.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    fields: Vec<(usize, Field)>,
    /// `sizeof`.
    pub(super) bytes: usize,
}

impl Layout {
    /// Places fields as C does: each at a multiple of its own size.
    pub(super) fn of(fields: &[Field]) -> Self {
        let (mut offset, mut alignment) = (0usize, 1);
        let mut placed = Vec::with_capacity(fields.len());
        for &field in fields {
            let size = field.default_bytes().len();
            offset = offset.next_multiple_of(size);
            alignment = alignment.max(size);
            placed.push((offset, field));
            offset += size;
        }
        Self { fields: placed, bytes: offset.next_multiple_of(alignment) }
    }

    /// Where a field lies.
    pub(super) fn offset(&self, name: &str) -> Option<usize> {
        self.fields.iter().find(|(_, f)| f.name == name).map(|(offset, _)| *offset)
    }

    /// Compares with what the runtime wrote into two buffers that were filled with different bytes before.
    ///
    /// # Errors
    /// The first difference: a field that was not written or has another default, or bytes written past the end.
    pub(super) fn compare(&self, written: [&Params; 2]) -> Result<(), String> {
        let [a, b] = written.map(Params::bytes);
        for (offset, field) in &self.fields {
            let expected = field.default_bytes();
            let range = *offset..offset + expected.len();
            if a[range.clone()] != b[range.clone()] {
                return Err(format!("{} at byte {offset} is not written", field.name));
            }
            if a[range.clone()] != expected {
                return Err(format!("{} at byte {offset} is {:02x?}, not {:02x?}", field.name, &a[range], expected));
            }
        }
        match (self.bytes..BYTES).rev().find(|&i| a[i] == b[i]) {
            Some(last) => Err(format!("it has at least {} bytes, not {}", last + 1, self.bytes)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> [Field; 4] {
        [int("n", -1), word("p"), flag("on", true), float("x", 0.5)]
    }

    fn written(fill: u8, n: i32) -> Params {
        let mut params = Params::filled(fill);
        params.put(0, &n.to_ne_bytes());
        params.put(8, &0usize.to_ne_bytes());
        params.put(16, &[1]);
        params.put(20, &0.5f32.to_ne_bytes());
        params
    }

    #[test]
    fn fields_lie_where_c_puts_them() {
        let layout = Layout::of(&fields());
        let offsets = ["n", "p", "on", "x", "y"].map(|name| layout.offset(name));
        assert_eq!(offsets, [Some(0), Some(8), Some(16), Some(20), None]);
        assert_eq!(layout.bytes, 24);
    }

    #[test]
    fn padding_is_not_compared_and_every_difference_is_named() {
        let layout = Layout::of(&fields());
        assert_eq!(layout.compare([&written(1, -1), &written(2, -1)]), Ok(()));
        let other = layout.compare([&written(1, 7), &written(2, 7)]).unwrap_err();
        assert!(other.starts_with("n at byte 0 is [07, "), "{other}");
        let mut longer = [written(1, -1), written(2, -1)];
        longer.iter_mut().for_each(|p| p.put(24, &[0]));
        let longer = layout.compare([&longer[0], &longer[1]]).unwrap_err();
        assert_eq!(longer, "it has at least 25 bytes, not 24");
        let short = layout.compare([&Params::filled(1), &Params::filled(2)]).unwrap_err();
        assert_eq!(short, "n at byte 0 is not written");
    }
}
