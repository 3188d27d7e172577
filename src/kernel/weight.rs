//! A frozen weight matrix as it lies in the model file, and the strided matrices it is multiplied with.

use std::ffi::c_void;
use std::ops::Range;

use quant::Type;

use super::decode::decoder;
use crate::error::{Error, Kind, Result};

/// ggml's row decoder (`ggml_get_type_traits(type)->to_float`): `n` elements, a multiple of the block length.
pub type ToFloat = unsafe extern "C" fn(src: *const c_void, dst: *mut f32, n: i64);

/// A frozen weight of shape [n_in, n_out] in ggml order: `n_out` rows of `n_in` elements each.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    ty: Type,
    n_in: usize,
    n_out: usize,
    row_bytes: usize,
    data: *const u8,
    to_float: Option<ToFloat>,
}

// SAFETY: `Weight::new` requires that nobody writes the elements while the value or a copy of it is in use; a decoder
// is a pure function of its arguments.
unsafe impl Send for Weight {}
// SAFETY: as above.
unsafe impl Sync for Weight {}

impl Weight {
    /// Describes the weight at `data`: `n_in` = ne0, `n_out` = ne1, `row_bytes` = nb1. `to_float` may be `None` for
    /// [`Type::F32`] only.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a null pointer, an empty or overflowing shape, rows that are no whole number of blocks or
    /// overlap; [`Kind::Unsupported`] for a type without a decoder.
    ///
    /// # Safety
    /// `data` points to `n_out` rows, `row_bytes` apart, that stay readable and unchanged as long as the value or a copy
    /// of it is in use. `to_float`, if given, decodes type `ty`.
    pub unsafe fn new(
        ty: Type,
        shape: [usize; 2],
        row_bytes: usize,
        data: *const u8,
        to_float: Option<ToFloat>,
    ) -> Result<Self> {
        let [n_in, n_out] = shape;
        let bad = |what: &str| Err(Error::new(Kind::Argument, format!("weight {} {n_in}x{n_out}: {what}", ty.name())));
        if data.is_null() || n_in == 0 || n_out == 0 {
            return bad("no elements");
        }
        if n_in % ty.block_len() != 0 {
            return bad("rows are not whole blocks");
        }
        let packed = (n_in / ty.block_len()).checked_mul(ty.block_bytes());
        if packed.is_none_or(|bytes| bytes > row_bytes) {
            return bad("row stride shorter than a row");
        }
        // Both the file's bytes and the decoded floats must be addressable.
        let floats = n_in.checked_mul(n_out).and_then(|n| n.checked_mul(size_of::<f32>()));
        let limit = isize::MAX as usize;
        if floats.is_none_or(|n| n > limit) || row_bytes.checked_mul(n_out).is_none_or(|n| n > limit) {
            return bad("too large");
        }
        if to_float.is_none() && ty != Type::F32 {
            return Err(Error::new(Kind::Unsupported, format!("weight type {}: no decoder", ty.name())));
        }
        Ok(Self { ty, n_in, n_out, row_bytes, data, to_float })
    }

    /// The element type.
    pub fn ty(&self) -> Type {
        self.ty
    }

    /// Length of a row: ne0, the inner size of the forward product.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Number of rows: ne1, the inner size of the transposed product.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// The smallest column range that can be decoded alone.
    pub(super) fn block_len(&self) -> usize {
        self.ty.block_len()
    }

    /// The bytes of `row` from `column` on; `column` is a multiple of the block length.
    pub(super) fn bytes(&self, row: usize, column: usize) -> *const u8 {
        debug_assert!(row < self.n_out && column < self.n_in && column.is_multiple_of(self.block_len()));
        let offset = row * self.row_bytes + column / self.block_len() * self.ty.block_bytes();
        self.data.wrapping_add(offset)
    }

    /// Some of its rows as a weight of their own.
    ///
    /// # Panics
    /// If there are no such rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start < rows.end && rows.end <= self.n_out, "rows {rows:?} of {}", self.n_out);
        Self { n_out: rows.len(), data: self.data.wrapping_add(rows.start * self.row_bytes), ..*self }
    }

    /// Some of its columns as a weight of their own; the range begins and ends at blocks.
    ///
    /// # Panics
    /// If there are no such columns.
    pub(super) fn columns(&self, columns: Range<usize>) -> Self {
        let whole = columns.start.is_multiple_of(self.block_len()) && columns.len().is_multiple_of(self.block_len());
        assert!(
            whole && columns.start < columns.end && columns.end <= self.n_in,
            "columns {columns:?} of {}",
            self.n_in
        );
        Self { n_in: columns.len(), data: self.bytes(0, columns.start), ..*self }
    }

    /// The elements themselves with their row stride in floats, where they are aligned F32 and need no decoding.
    pub(super) fn floats(&self) -> Option<(*const f32, usize)> {
        let aligned = self.data.cast::<f32>().is_aligned() && self.row_bytes.is_multiple_of(size_of::<f32>());
        (self.ty == Type::F32 && aligned).then(|| (self.data.cast(), self.row_bytes / size_of::<f32>()))
    }

    /// Decodes `n` elements of `row` from `column` on into `dst`.
    ///
    /// # Safety
    /// `row < n_out`, `column + n <= n_in`, both multiples of the block length; `dst` holds `n` floats.
    pub(super) unsafe fn decode(&self, row: usize, column: usize, n: usize, dst: *mut f32) {
        let src = self.bytes(row, column);
        if let Some(decode) = decoder(self.ty) {
            let bytes = n / self.block_len() * self.ty.block_bytes();
            // SAFETY: as above: whole blocks of this row, and `n` floats at `dst`.
            return unsafe { decode(std::slice::from_raw_parts(src, bytes), std::slice::from_raw_parts_mut(dst, n)) };
        }
        match self.to_float {
            // SAFETY: the caller keeps to the shape that `new` was given; the decoder reads whole blocks of this row.
            Some(to_float) if self.ty != Type::F32 => unsafe { to_float(src.cast(), dst, n as i64) },
            // SAFETY: as above, four bytes per element; a byte copy needs no alignment.
            _ => unsafe { std::ptr::copy_nonoverlapping(src, dst.cast::<u8>(), n * size_of::<f32>()) },
        }
    }
}

/// A matrix to read: rows of floats, one per token, `stride` floats apart (ggml: nb1 / 4).
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// First element of the first row.
    pub data: *const f32,
    /// Floats from one row's start to the next one's.
    pub stride: usize,
}

/// A matrix to write: rows of floats, one per token, `stride` floats apart.
#[derive(Clone, Copy, Debug)]
pub struct RowsMut {
    /// First element of the first row.
    pub data: *mut f32,
    /// Floats from one row's start to the next one's.
    pub stride: usize,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

impl Rows {
    pub(super) fn check(&self, width: usize, t: usize) -> Result<()> {
        check(self.data, self.stride, width, t)
    }
}

impl RowsMut {
    pub(super) fn check(&self, width: usize, t: usize) -> Result<()> {
        check(self.data, self.stride, width, t)
    }
}

fn check(data: *const f32, stride: usize, width: usize, t: usize) -> Result<()> {
    let fits =
        stride.checked_mul(t).and_then(|n| n.checked_mul(size_of::<f32>())).is_some_and(|n| n <= isize::MAX as usize);
    if data.is_null() || !data.is_aligned() || stride < width || !fits {
        let what = format!("activations: {t} rows of {width} with stride {stride} at {data:p}");
        return Err(Error::new(Kind::Internal, what));
    }
    Ok(())
}
