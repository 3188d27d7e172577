//! Going through one tensor's sources, chunk of rows by chunk of rows.

use super::compat::Source;
use crate::error::{Error, Kind, Result};
use crate::runtime::Runtime;

/// Values in a chunk: with a few buffers per thread this bounds the memory, whatever a tensor's size. A row is never cut.
const CHUNK_VALUES: usize = 1 << 18;

/// One tensor, its sources, and how to go through them.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) sources: &'a [Source<'a>],
    pub(super) threads: usize,
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
    /// Runs `work` on every chunk, several at a time, and hands the results to `take` in the chunks' order, so that nothing
    /// depends on the number of threads.
    pub(super) fn run<T: Send>(
        &self,
        work: impl Fn(&Chunk) -> Result<T> + Sync,
        mut take: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let rows = (CHUNK_VALUES / self.n_per_row.max(1)).max(1);
        let firsts: Vec<usize> = (0..self.n_rows).step_by(rows).collect();
        let one = |&first: &usize| work(&self.chunk(first, rows.min(self.n_rows - first))?);
        for batch in firsts.chunks(self.threads.max(1)) {
            let [here, others @ ..] = batch else { break };
            let results = std::thread::scope(|scope| {
                let others: Vec<_> = others.iter().map(|first| scope.spawn(|| one(first))).collect();
                let mut results = vec![one(here)];
                results.extend(others.into_iter().map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "a thread of the merge panicked")))
                }));
                results
            });
            for result in results {
                take(result?)?;
            }
        }
        Ok(())
    }

    fn chunk(&self, first_row: usize, n_rows: usize) -> Result<Chunk> {
        let decoded = |source: &Source| {
            let row = source.tensor.bytes as usize / self.n_rows;
            let mut values = vec![0.0; n_rows * self.n_per_row];
            let bytes = &source.data()[first_row * row..(first_row + n_rows) * row];
            self.runtime.dequantize(source.tensor.ty, bytes, &mut values)?;
            Ok(values)
        };
        let values = self.sources.iter().map(decoded).collect::<Result<_>>()?;
        Ok(Chunk { first_row, values })
    }
}
