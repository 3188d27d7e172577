//! Reading little-endian fields from untrusted bytes: every read is checked, every error has its offset.

use super::{Array, Value};
use crate::error::{Error, Kind, Result};

/// Longest key or tensor name that is read, in bytes.
const KEY_BYTES_MAX: u64 = 65_535;

/// A place in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    label: &'a str,
}

macro_rules! numbers {
    ($($name:ident: $ty:ty),+) => {$(
        pub(super) fn $name(&mut self, what: &str) -> Result<$ty> {
            let mut buf = [0; size_of::<$ty>()];
            buf.copy_from_slice(self.take(size_of::<$ty>() as u64, what)?);
            Ok(<$ty>::from_le_bytes(buf))
        }
    )+};
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], label: &'a str) -> Self {
        Self { bytes, at: 0, label }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn fault(&self, what: impl AsRef<str>) -> Error {
        Error::new(Kind::Format, format!("{}: offset {}: {}", self.label, self.at, what.as_ref()))
    }

    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(self.fault(format!("{what} needs {n} bytes, {} are left", self.left())));
        }
        let (from, to) = (self.at, self.at + n as usize);
        self.at = to;
        Ok(&self.bytes[from..to])
    }

    numbers!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// A length-prefixed text.
    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        let n = self.u64(what)?;
        let start = self.at;
        let bytes = self.take(n, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|e| {
            self.at = start + e.utf8_error().valid_up_to();
            self.fault(format!("{what} is not UTF-8"))
        })
    }

    /// A key or a tensor's name: not empty, not endless, and nothing that commands a terminal.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        let start = self.at;
        let text = self.text(what)?;
        if text.is_empty() || text.len() as u64 > KEY_BYTES_MAX || text.contains(char::is_control) {
            self.at = start;
            let bad = format!("{what} is empty, longer than {KEY_BYTES_MAX} bytes, or holds a control character");
            return Err(self.fault(bad));
        }
        Ok(text)
    }

    fn boolean(&mut self, what: &str) -> Result<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.fault(format!("{what} is a truth value of {other}"))),
        }
    }

    /// A value of the numbered type.
    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        let what = format!("key {key}");
        Ok(match self.u32(&what)? {
            0 => Value::U8(self.u8(&what)?),
            1 => Value::I8(self.i8(&what)?),
            2 => Value::U16(self.u16(&what)?),
            3 => Value::I16(self.i16(&what)?),
            4 => Value::U32(self.u32(&what)?),
            5 => Value::I32(self.i32(&what)?),
            6 => Value::F32(self.f32(&what)?),
            7 => Value::Bool(self.boolean(&what)?),
            8 => Value::String(self.text(&what)?),
            9 => Value::Array(self.array(&what)?),
            10 => Value::U64(self.u64(&what)?),
            11 => Value::I64(self.i64(&what)?),
            12 => Value::F64(self.f64(&what)?),
            other => return Err(self.fault(format!("{what} has unknown type {other}"))),
        })
    }

    fn array(&mut self, what: &str) -> Result<Array> {
        let ty = self.u32(what)?;
        let n = self.u64(what)?;
        // The smallest element that a file can hold decides what a count may claim.
        let smallest: u64 = match ty {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.fault(format!("{what} is an array of arrays"))),
            other => return Err(self.fault(format!("{what} is an array of unknown type {other}"))),
        };
        if n.checked_mul(smallest).is_none_or(|bytes| bytes > self.left()) {
            return Err(self.fault(format!("{what} claims {n} elements, {} bytes are left", self.left())));
        }
        macro_rules! list {
            ($variant:ident, $read:ident) => {
                Array::$variant((0..n).map(|_| self.$read(what)).collect::<Result<_>>()?)
            };
        }
        Ok(match ty {
            0 => list!(U8, u8),
            1 => list!(I8, i8),
            2 => list!(U16, u16),
            3 => list!(I16, i16),
            4 => list!(U32, u32),
            5 => list!(I32, i32),
            6 => list!(F32, f32),
            7 => list!(Bool, boolean),
            8 => list!(String, text),
            10 => list!(U64, u64),
            11 => list!(I64, i64),
            _ => list!(F64, f64),
        })
    }
}
