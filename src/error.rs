//! The one error type. Its kinds are the numbers a C caller sees and choose the program's exit status.

use std::fmt;
use std::path::Path;

/// What went wrong, as a number that never changes meaning: the C status codes are these values.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// A parameter, flag or configuration key is out of bounds or contradicts another.
    Argument = -1,
    /// The operating system refused: file missing, disk full, permission.
    Io = -2,
    /// A file is not what it claims to be.
    Format = -3,
    /// Valid, but this build, backend or architecture cannot do it.
    Unsupported = -4,
    /// Adapter, model or data do not belong together.
    Mismatch = -5,
    /// Memory could not be had.
    Memory = -6,
    /// A loss or gradient became NaN or infinite; the step was not applied.
    Numeric = -7,
    /// The self-check failed: the traced graph does not reproduce the runtime.
    Check = -8,
    /// A bug in this library; the message says where.
    Internal = -9,
    /// An output exists already and overwriting was not asked for, or it cannot be created.
    Output = -10,
    /// An input file does not exist.
    Missing = -11,
    /// Training data cannot be used: the message names the file and line.
    Data = -12,
    /// The object is in use: by another thread, or by the call whose callback this is.
    Busy = -13,
    /// A call on this object panicked before; it can only be freed.
    Poisoned = -14,
}

impl Kind {
    /// The program's exit status for this kind: the one table of exit codes.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Argument => 2,
            Kind::Format | Kind::Data => 65,
            Kind::Missing => 66,
            Kind::Unsupported => 69,
            Kind::Internal | Kind::Busy | Kind::Poisoned => 70,
            Kind::Memory => 71,
            Kind::Output => 73,
            Kind::Io => 74,
            Kind::Numeric => 76,
            Kind::Mismatch => 78,
            Kind::Check => 79,
        }
    }
}

/// A kind, a message that names the offender, and the frames it passed on its way up.
pub struct Error {
    kind: Kind,
    message: String,
    frames: Vec<String>,
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error of `kind`; the message names file, tensor, key, line or flag.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), frames: Vec::new() }
    }

    /// An operating-system error on `path`, as [`Kind::Missing`] where the path does not exist.
    pub fn io(path: impl AsRef<Path>, what: &str, source: &std::io::Error) -> Self {
        let kind = if source.kind() == std::io::ErrorKind::NotFound { Kind::Missing } else { Kind::Io };
        Self::new(kind, format!("{}: {what}: {source}", path.as_ref().display()))
    }

    /// Adds what was being done when the error passed through.
    #[must_use]
    pub fn during(mut self, frame: impl Into<String>) -> Self {
        self.frames.push(frame.into());
        self
    }

    /// The kind, for callers that decide by it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for frame in self.frames.iter().rev() {
            write!(f, "{frame}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {}

/// Adds a frame to the error of a `Result`.
pub trait Context<T> {
    /// Adds what was being done; the closure runs only on failure.
    fn during(self, frame: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn during(self, frame: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| e.during(frame()))
    }
}
