//! Where messages go: to the sink of the handle whose call is running on this thread, or nowhere.
//!
//! llama.cpp has one log for the process; lines of the built-in one that are logged on a thread with a sink go there.

use std::cell::RefCell;
use std::sync::Arc;

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of llama.cpp's insides.
    Debug = 1,
    /// What was done.
    Info = 2,
    /// Works, but perhaps not as wanted.
    Warn = 3,
    /// Failed.
    Error = 4,
}

/// Takes messages, on any thread that works for its owner.
pub type Sink = Arc<dyn Fn(Level, &str) + Send + Sync>;

thread_local! {
    static CURRENT: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

/// Runs a call whose messages go to `sink`.
pub fn with<T>(sink: Option<Sink>, call: impl FnOnce() -> T) -> T {
    /// Puts the outer sink back, also when the call panics.
    struct Restore(Option<Sink>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.replace(sink));
    call()
}

/// Passes a message on; it is only made if somebody listens.
pub(crate) fn say(level: Level, message: impl FnOnce() -> String) {
    // Not borrowed while the sink runs: it may call back into this library.
    let sink = CURRENT.with_borrow(Clone::clone);
    if let Some(sink) = sink {
        sink(level, &message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn messages_go_to_the_innermost_sink_of_their_thread() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = |name: &'static str| -> Option<Sink> {
            let lines = lines.clone();
            Some(Arc::new(move |level, text: &str| lines.lock().unwrap().push(format!("{name} {level:?} {text}"))))
        };
        say(Level::Info, || unreachable!("nobody listens"));
        with(sink("outer"), || {
            say(Level::Info, || "1".into());
            with(sink("inner"), || say(Level::Warn, || "2".into()));
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                with(sink("lost"), || panic!("a test's panic"))
            }));
            assert!(panicked.is_err());
            std::thread::spawn(|| say(Level::Error, || "of another thread".into())).join().unwrap();
            say(Level::Debug, || "3".into());
        });
        say(Level::Info, || "after".into());
        assert_eq!(*lines.lock().unwrap(), ["outer Info 1", "inner Warn 2", "outer Debug 3"]);
    }
}
