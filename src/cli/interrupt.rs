//! Ctrl-C: the first one asks the run to stop with a checkpoint, the second one ends the program at once.

use crate::error::{Error, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Exit status of a run that was interrupted: 128 + SIGINT, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// Whether someone asked the program to stop.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to SIGINT and SIGTERM from now on.
    pub(super) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset, passes, and sets it.
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .map_err(|e| Error::new(Kind::Io, format!("signal {signal}: cannot listen to it: {e}")))?;
        }
        Ok(Self(asked))
    }

    /// True after the first signal.
    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A limit on the size of files is an error of the write that meets it, not the end of the program.
pub(super) fn keep_writing_errors() {
    #[cfg(unix)]
    {
        let met = Arc::new(AtomicBool::new(false));
        // Where it cannot be set the signal ends the program, as it would without it.
        let _ = flag::register(signal_hook::consts::SIGXFSZ, met);
    }
}
