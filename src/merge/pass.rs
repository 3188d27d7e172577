//! Going through one tensor's sources, chunk of rows by chunk of rows.

use super::compat::Source;
use crate::error::{Error, Kind, Result};
use crate::runtime::Runtime;
use rayon::prelude::*;
use rayon::ThreadPool;
use std::sync::{Mutex, PoisonError};

/// Values in a chunk that is combined and stored: its buffers fit a core's cache. A row is never cut.
pub(super) const STORE_VALUES: usize = 1 << 14;
/// Values in a chunk that is only looked at.
pub(super) const LOOK_VALUES: usize = 1 << 18;
/// Values per thread between two times that results are taken.
const BATCH_VALUES: usize = 1 << 19;

/// Threads that are started wherever they are asked for, cores or not: rayon's sleep while they wait. Thousands would not fit.
const THREADS: usize = 16;

/// Threads of a merge (rayon's), each with its buffers.
#[derive(Debug)]
pub(super) struct Workers {
    pool: ThreadPool,
    buffers: Vec<Mutex<Chunk>>,
}

impl Workers {
    pub(super) fn new(n_threads: usize) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads.clamp(1, cores.max(THREADS))).build();
        let pool = pool.map_err(|e| Error::new(Kind::Memory, format!("cannot start threads: {e}")))?;
        let buffers = (0..pool.current_num_threads()).map(|_| Mutex::default()).collect();
        Ok(Self { pool, buffers })
    }

    pub(super) fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Runs on the calling thread's buffers, which nobody else has while it runs.
    fn with_buffers<T>(&self, run: impl FnOnce(&mut Chunk) -> T) -> T {
        let index = rayon::current_thread_index().unwrap_or(0) % self.buffers.len();
        // What a panic left behind is overwritten by the next chunk.
        run(&mut self.buffers[index].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One tensor, its sources, and how to go through them.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) workers: &'a Workers,
    pub(super) sources: &'a [Source<'a>],
    pub(super) n_per_row: usize,
    pub(super) n_rows: usize,
}

/// Some rows of every source, decoded, and room for what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) first_row: usize,
    pub(super) values: Vec<Vec<f32>>,
    /// What they should become.
    pub(super) target: Vec<f32>,
    /// What they became.
    pub(super) stored: Vec<f32>,
}

impl Chunk {
    pub(super) fn slices(&self) -> Vec<&[f32]> {
        self.values.iter().map(Vec::as_slice).collect()
    }
}

impl Pass<'_> {
    /// Runs `work` on every chunk of about `n_values`, several at a time, and hands the results to `take` in the chunks' order,
    /// so that nothing depends on the number of threads. Results are taken while the next chunks are worked on.
    pub(super) fn run<T: Send>(
        &self,
        n_values: usize,
        work: impl Fn(&mut Chunk) -> Result<T> + Sync + Send,
        mut take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let rows = (n_values / self.n_per_row.max(1)).max(1);
        let firsts: Vec<usize> = (0..self.n_rows).step_by(rows).collect();
        let one = |&first: &usize| {
            self.workers.with_buffers(|chunk| {
                self.read(first, rows.min(self.n_rows - first), chunk)?;
                work(chunk)
            })
        };
        let pool = self.workers.pool();
        pool.install(|| {
            let mut done: Vec<Result<T>> = Vec::new();
            for batch in firsts.chunks((BATCH_VALUES / n_values).max(1) * pool.current_num_threads()) {
                let (taken, results) = rayon::join(
                    || std::mem::take(&mut done).into_iter().try_for_each(|result| take(result?)),
                    || batch.par_iter().map(one).collect::<Vec<Result<T>>>(),
                );
                taken?;
                done = results;
                // The last rows are given back with the whole tensor.
                if batch[0] + rows * batch.len() < self.n_rows {
                    self.release(batch[0], rows * batch.len());
                }
            }
            done.into_iter().try_for_each(|result| take(result?))
        })
    }

    fn read(&self, first_row: usize, n_rows: usize, chunk: &mut Chunk) -> Result<()> {
        chunk.first_row = first_row;
        chunk.values.resize_with(self.sources.len(), Vec::new);
        for (source, values) in self.sources.iter().zip(&mut chunk.values) {
            let row = source.tensor.bytes as usize / self.n_rows;
            values.resize(n_rows * self.n_per_row, 0.0);
            let bytes = &source.data()[first_row * row..(first_row + n_rows) * row];
            super::codec::decode(self.runtime, source.tensor.ty, bytes, values)?;
        }
        Ok(())
    }

    /// Gives the pages of these rows back.
    fn release(&self, first_row: usize, n_rows: usize) {
        for source in self.sources {
            let row = source.tensor.bytes as usize / self.n_rows;
            source.file.release_range(source.tensor, first_row * row..(first_row + n_rows) * row);
        }
    }
}
