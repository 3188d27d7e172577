//! Going through one tensor's sources, chunk of rows by chunk of rows.

use super::compat::Source;
use crate::error::Result;
use crate::runtime::Runtime;
use rayon::prelude::*;
use rayon::ThreadPool;

/// Values in a chunk that is combined and stored: its buffers fit a core's cache. A row is never cut.
pub(super) const STORE_VALUES: usize = 1 << 16;
/// Values in a chunk that is only looked at.
pub(super) const LOOK_VALUES: usize = 1 << 18;
/// Chunks per thread between two times that results are taken.
const CHUNKS_PER_THREAD: usize = 8;

/// One tensor, its sources, and how to go through them.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) pool: &'a ThreadPool,
    pub(super) sources: &'a [Source<'a>],
    pub(super) n_per_row: usize,
    pub(super) n_rows: usize,
}

/// Some rows of every source, decoded.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) first_row: usize,
    pub(super) values: Vec<Vec<f32>>,
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
        work: impl Fn(&Chunk) -> Result<T> + Sync + Send,
        mut take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let rows = (n_values / self.n_per_row.max(1)).max(1);
        let firsts: Vec<usize> = (0..self.n_rows).step_by(rows).collect();
        let one = |&first: &usize| work(&self.chunk(first, rows.min(self.n_rows - first))?);
        self.pool.install(|| {
            let mut done: Vec<Result<T>> = Vec::new();
            for batch in firsts.chunks(CHUNKS_PER_THREAD * self.pool.current_num_threads()) {
                let (taken, results) = rayon::join(
                    || std::mem::take(&mut done).into_iter().try_for_each(|result| take(result?)),
                    || batch.par_iter().map(one).collect::<Vec<Result<T>>>(),
                );
                taken?;
                done = results;
                self.release(batch[0], rows * batch.len());
            }
            done.into_iter().try_for_each(|result| take(result?))
        })
    }

    fn chunk(&self, first_row: usize, n_rows: usize) -> Result<Chunk> {
        let decoded = |source: &Source| {
            let row = source.tensor.bytes as usize / self.n_rows;
            let mut values = vec![0.0; n_rows * self.n_per_row];
            let bytes = &source.data()[first_row * row..(first_row + n_rows) * row];
            super::codec::decode(self.runtime, source.tensor.ty, bytes, &mut values)?;
            Ok(values)
        };
        let values = self.sources.iter().map(decoded).collect::<Result<_>>()?;
        Ok(Chunk { first_row, values })
    }

    /// Gives the pages of these rows back.
    fn release(&self, first_row: usize, n_rows: usize) {
        for source in self.sources {
            let row = source.tensor.bytes as usize / self.n_rows;
            source.file.release_range(source.tensor, first_row * row..(first_row + n_rows) * row);
        }
    }
}
