//! Structs that cross the boundary carry their size, so that a program and a library of different versions agree.

use super::status::argument;
use crate::error::Result;

/// No struct of this interface will ever be larger; a size beyond it is memory that was never set.
const BYTES_MAX: usize = 4096;

/// A struct of the interface.
///
/// # Safety
/// `repr(C)`, without padding, its first field a u32 with its size; every bit pattern is a value.
pub(super) unsafe trait Struct: Copy {
    /// Its C name.
    const NAME: &'static str;
    /// Its size when it was first published: none is smaller.
    const BYTES_V1: usize;
}

/// A struct that goes in; NULL stands for the defaults.
pub(super) trait Params: Struct {
    /// What fields are that the caller does not set.
    fn defaults() -> Self;
}

/// Whether a size can be that of a struct which has at least `least` bytes.
pub(super) fn size_is_sane(struct_size: u32, least: usize) -> bool {
    // Fields have 4 bytes at least: no struct ends within one.
    (least..=BYTES_MAX).contains(&(struct_size as usize)) && struct_size.is_multiple_of(4)
}

fn checked<S: Struct>(struct_size: u32) -> Result<usize> {
    if size_is_sane(struct_size, S::BYTES_V1) {
        return Ok(struct_size as usize);
    }
    Err(argument(format!("{}: struct_size is {struct_size}, not sizeof({})", S::NAME, S::NAME)))
}

/// The caller's parameters, or the defaults for NULL.
///
/// # Safety
/// `params` is NULL or points to as many readable bytes as its `struct_size`.
pub(super) unsafe fn read<P: Params>(params: *const P) -> Result<P> {
    let mut value = P::defaults();
    if params.is_null() {
        return Ok(value);
    }
    let (theirs, ours) = (params.cast::<u8>(), size_of::<P>());
    // SAFETY: by the caller; the size comes first.
    let bytes = checked::<P>(unsafe { params.cast::<u32>().read() })?;
    // SAFETY: within what the caller says to be its struct.
    if (ours..bytes).any(|i| unsafe { theirs.add(i).read() } != 0) {
        let message = format!("{}: a field behind byte {ours} is set, which this library does not know", P::NAME);
        return Err(argument(message));
    }
    // SAFETY: both sides have that many bytes, and any bytes are a value.
    unsafe { std::ptr::copy_nonoverlapping(theirs, (&raw mut value).cast(), bytes.min(ours)) };
    Ok(value)
}

/// Where a result goes.
pub(super) struct Out<S> {
    ptr: *mut S,
    bytes: usize,
}

impl<S: Struct> Out<S> {
    /// The caller's struct, after its size was checked.
    ///
    /// # Safety
    /// `ptr` is NULL or points to as many writable bytes as its `struct_size`, as long as this lives.
    pub(super) unsafe fn new(ptr: *mut S) -> Result<Self> {
        if ptr.is_null() {
            return Err(argument(format!("{} is NULL", S::NAME)));
        }
        // SAFETY: by the caller; the size comes first.
        Ok(Self { ptr, bytes: checked::<S>(unsafe { ptr.cast::<u32>().read() })? })
    }

    /// The same where NULL means that the result is not wanted.
    ///
    /// # Safety
    /// As [`Self::new`].
    pub(super) unsafe fn optional(ptr: *mut S) -> Result<Option<Self>> {
        // SAFETY: by the caller.
        (!ptr.is_null()).then(|| unsafe { Self::new(ptr) }).transpose()
    }

    /// Writes what the caller's struct has room for; fields that this library does not know become 0.
    pub(super) fn put(self, value: S) {
        let (theirs, ours) = (self.ptr.cast::<u8>(), size_of::<S>());
        // SAFETY: by the caller of `new`; the size stays what the caller set.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const value).cast(), theirs, self.bytes.min(ours));
            self.ptr.cast::<u32>().write(self.bytes as u32);
            if self.bytes > ours {
                theirs.add(ours).write_bytes(0, self.bytes - ours);
            }
        }
    }
}

/// Fills in the defaults.
///
/// # Safety
/// `params` is NULL or points to `struct_size` writable bytes.
pub(super) unsafe fn init<P: Params>(params: *mut P, struct_size: u32) -> Result<i32> {
    if params.is_null() {
        return Err(argument(format!("{} is NULL", P::NAME)));
    }
    let bytes = checked::<P>(struct_size)?;
    Out { ptr: params, bytes }.put(P::defaults());
    Ok(super::LLAMA_ALIGN_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Two {
        struct_size: u32,
        first: u32,
        second: f64,
    }

    // SAFETY: no padding, plain numbers.
    unsafe impl Struct for Two {
        const NAME: &'static str = "two";
        const BYTES_V1: usize = 8;
    }

    impl Params for Two {
        fn defaults() -> Self {
            Self { struct_size: 16, first: 1, second: 2.5 }
        }
    }

    /// A caller's struct of that size with these words.
    fn read_words(words: &[u32]) -> Result<Two> {
        // SAFETY: the test says a size that is not beyond the words, or one that is refused.
        let mut aligned = vec![0u64; words.len().div_ceil(2)];
        // SAFETY: there are as many words behind the pointer.
        unsafe {
            std::ptr::copy_nonoverlapping(words.as_ptr(), aligned.as_mut_ptr().cast(), words.len());
            read(aligned.as_ptr().cast::<Two>())
        }
    }

    #[test]
    fn older_and_newer_callers_are_understood() {
        assert_eq!(read_words(&[8, 7]).unwrap(), Two { struct_size: 8, first: 7, second: 2.5 });
        assert_eq!(read_words(&[24, 7, 0, 0, 0, 0]).unwrap().second, 0.0);
        let error = read_words(&[24, 7, 0, 0, 0, 1]).unwrap_err().to_string();
        assert!(error.contains("behind byte 16"), "{error}");
        for size in [0, 7, 9, 4097, u32::MAX] {
            assert!(read_words(&[size, 0, 0, 0]).unwrap_err().to_string().contains("struct_size"));
        }
    }

    #[test]
    fn results_fill_what_the_caller_has() {
        let mut words = [8u32, 9, 9, 9, 9, 9];
        let value = Two { struct_size: 0, first: 3, second: 0.0 };
        // SAFETY: the struct is as large as it says.
        unsafe { Out::new(words.as_mut_ptr().cast::<Two>()) }.unwrap().put(value);
        assert_eq!(words, [8, 3, 9, 9, 9, 9]);
        words[0] = 24;
        // SAFETY: as above.
        unsafe { Out::new(words.as_mut_ptr().cast::<Two>()) }.unwrap().put(value);
        assert_eq!(words, [24, 3, 0, 0, 0, 0]);
    }
}
