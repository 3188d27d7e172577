//! Writing behind: a thread hands bytes to the system while the next ones are computed.

use crate::error::{Error, Kind, Result};
use crate::os;
use std::path::PathBuf;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Pieces that wait at most; whoever brings more waits as well.
const QUEUE: usize = 256;
/// Bytes that are gathered from pieces that follow each other: the system takes many at once in larger pages.
const RUN_BYTES: u64 = 1 << 20;
/// Bytes after which the system is asked to begin with the disk, so that little is left for the sync at the end.
const BEGIN_BYTES: u64 = 8 << 20;

/// A file that pieces go to, and the name it is spoken of by.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: std::fs::File,
    pub(super) path: PathBuf,
}

/// Bytes and their place.
struct Piece {
    target: Arc<Target>,
    at: u64,
    bytes: Vec<u8>,
}

/// The thread, which writes pieces in the order in which it gets them. Ends when this is dropped.
#[derive(Debug)]
pub(super) struct Behind {
    pieces: Option<SyncSender<Piece>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Behind {
    /// Starts the thread.
    pub(super) fn new() -> Result<Self> {
        let (pieces, inbox) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("gguf-writer".to_owned()).spawn(|| write_all(inbox));
        let thread = thread.map_err(|e| Error::new(Kind::Memory, format!("cannot start a thread: {e}")))?;
        Ok(Self { pieces: Some(pieces), thread: Some(thread) })
    }

    /// Has bytes written at a place of a file; an error may be that of an earlier piece.
    pub(super) fn write(&mut self, target: &Arc<Target>, at: u64, bytes: Vec<u8>) -> Result<()> {
        let piece = Piece { target: target.clone(), at, bytes };
        match self.pieces.as_ref().map(|pieces| pieces.send(piece)) {
            Some(Ok(())) => Ok(()),
            _ => self.finish().and(Err(Error::new(Kind::Internal, "the writing thread has ended"))),
        }
    }

    /// Waits until everything is written.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new(Kind::Internal, "the writing thread panicked")),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // Whoever drops this has an error of his own, or has seen this one.
        let _ = self.finish();
    }
}

/// Writes until there are no more pieces; the first error ends it.
fn write_all(inbox: Receiver<Piece>) -> Result<()> {
    let (mut next, mut begun) = (None, 0);
    while let Some(Piece { target, at, bytes }) = next.take().or_else(|| inbox.recv().ok()) {
        let mut end = at + bytes.len() as u64;
        let mut run = vec![bytes];
        while end < at + RUN_BYTES {
            match inbox.recv() {
                Ok(piece) if piece.at == end && Arc::ptr_eq(&piece.target, &target) => {
                    end += piece.bytes.len() as u64;
                    run.push(piece.bytes);
                }
                other => {
                    next = other.ok();
                    break;
                }
            }
        }
        let fail = |e| Error::io(&target.path, &format!("cannot write (at {at} bytes)"), &e);
        os::write_run_at(&target.file, &run, at).map_err(fail)?;
        // Another file, or a tensor once more: count from here.
        if end < begun || at > begun + BEGIN_BYTES {
            begun = at;
        }
        if end >= begun + BEGIN_BYTES {
            os::begin_writeback(&target.file, begun, end - begun);
            begun = end;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &std::path::Path, writable: bool) -> Arc<Target> {
        let file = std::fs::OpenOptions::new().read(true).write(writable).create(writable).truncate(false).open(path);
        Arc::new(Target { file: file.unwrap(), path: path.to_owned() })
    }

    #[test]
    fn pieces_land_in_order_and_an_error_is_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let mut behind = Behind::new().unwrap();
        let file = target(&path, true);
        for i in 0..100u8 {
            behind.write(&file, u64::from(i % 50) * 3, vec![i; 3]).unwrap();
        }
        behind.finish().unwrap();
        let wanted: Vec<u8> = (50..100).flat_map(|i| [i; 3]).collect();
        assert_eq!(std::fs::read(&path).unwrap(), wanted);
        assert_eq!(behind.write(&file, 0, vec![0]).unwrap_err().kind(), Kind::Internal);
        let (mut behind, file) = (Behind::new().unwrap(), target(&path, false));
        let failed =
            (0..1000).find_map(|_| behind.write(&file, 7, vec![1]).err()).or_else(|| behind.finish().err()).unwrap();
        assert!(failed.kind() == Kind::Io && failed.to_string().contains("at 7 bytes"), "{failed}");
    }
}
