//! The walk back through the blocks: weighs the head's unit gradients, recomputes each block's inside, adds up.

use super::head;
use super::lower::Form;
use super::session::{Batch, Engine};
use crate::error::{Error, Kind, Result};
use crate::ir::ValueId;
use crate::runtime::Region;
use std::collections::HashMap;

impl Engine {
    /// Takes d loss / d log-prob for every value that the last [`Self::forward`] returned; adds to the gradients.
    pub fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        self.backward_with(gradients, &[])
    }

    /// As [`Self::backward`], with cotangents \[d, T\] added to hidden states: pairs of block and values on the packed axis.
    pub fn backward_with(&mut self, gradients: &[Vec<f32>], taps: &[(usize, &[f32])]) -> Result<()> {
        let Some(batch) = self.batch.take() else {
            return Err(Error::new(Kind::Internal, "backward without a forward"));
        };
        let n = batch.layout.n_tokens();
        let flat: Vec<f32> = gradients.iter().flatten().copied().collect();
        if flat.len() != batch.rows.len() || (batch.units.is_empty() && !self.plan.head.read_gradients.is_empty()) {
            let message = format!("{} gradients for {} log-probs of a forward", flat.len(), batch.rows.len());
            return Err(Error::new(Kind::Internal, message));
        }
        let mut cotangents: HashMap<ValueId, Region> = HashMap::new();
        for &(read, units) in &batch.units {
            let per_token = head::per_token(&self.adapted.program, read)?;
            let region = self.zeros(read, n, &mut cotangents)?;
            for (i, (row, &c)) in batch.rows.iter().zip(&flat).enumerate() {
                let to = batch.layout.spans()[row.sequence].place(row.place - 1) * per_token;
                let unit = self.memory.floats(units)[i * per_token..(i + 1) * per_token].to_vec();
                for (d, u) in self.memory.floats_mut(region)[to..to + per_token].iter_mut().zip(unit) {
                    *d += c * u;
                }
            }
        }
        for &(layer, values) in taps {
            let write = self.plan.blocks.get(layer).and_then(|b| b.writes.last()).copied();
            let write = write.ok_or_else(|| Error::new(Kind::Argument, format!("no block {layer} to tap")))?;
            let region = self.zeros(write, n, &mut cotangents)?;
            for (d, v) in self.memory.floats_mut(region).iter_mut().zip(values) {
                *d += v;
            }
        }
        let scale = self.scaled_up(&cotangents);
        for k in (0..self.plan.blocks.len()).rev() {
            self.block_backward(k, &batch, n, 1.0 / scale, &mut cotangents)?;
        }
        Ok(())
    }

    /// Brings the largest cotangent between 1 and 2 and returns the factor, a power of two, so that nothing is rounded: devices
    /// may round the operands of products to 16 bits, where small numbers vanish (vjp 3.4). 1 where the CPU computes.
    fn scaled_up(&mut self, cotangents: &HashMap<ValueId, Region>) -> f32 {
        if self.form != Form::TrainingOps {
            return 1.0;
        }
        let largest = cotangents.values().flat_map(|&r| self.memory.floats(r)).fold(0.0f32, |m, d| m.max(d.abs()));
        if !(largest.is_normal() && largest < 1e30) {
            return 1.0;
        }
        let scale = (-largest.log2().floor()).clamp(-100.0, 100.0).exp2();
        for &region in cotangents.values() {
            self.memory.floats_mut(region).iter_mut().for_each(|d| *d *= scale);
        }
        scale
    }

    fn block_backward(
        &mut self,
        k: usize,
        batch: &Batch,
        n: usize,
        factor: f32,
        cotangents: &mut HashMap<ValueId, Region>,
    ) -> Result<()> {
        let step = self.plan.blocks[k].clone();
        if step.read_gradients.is_empty() && step.parameter_gradients.is_empty() {
            return Ok(());
        }
        let mut given = batch.kept.clone();
        for &(write, seed) in &step.seeds {
            let region = self.zeros(write, n, cotangents)?;
            given.insert(seed, region);
        }
        let mark = self.memory.used();
        let mut outputs = Vec::new();
        let mut kept_until = mark;
        for &(read, gradient) in &step.read_gradients {
            let region = self.memory.take(self.bytes(read, n))?;
            if !cotangents.contains_key(&read) {
                kept_until = self.memory.used();
            }
            outputs.push((gradient, region));
        }
        for &(p, gradient) in &step.parameter_gradients {
            outputs.push((gradient, self.memory.take(self.adapted.parameters[p].len * 4)?));
        }
        self.graph(&batch.inputs, &given, n, outputs.iter().copied())?;
        let (of_reads, of_parameters) = outputs.split_at(step.read_gradients.len());
        for (&(read, _), &(_, region)) in step.read_gradients.iter().zip(of_reads) {
            match cotangents.get(&read) {
                Some(&sum) => self.accumulate(sum, region, 1.0),
                None => {
                    cotangents.insert(read, region);
                }
            }
        }
        for (&(p, _), &(_, region)) in step.parameter_gradients.iter().zip(of_parameters) {
            self.accumulate(self.gradients[p], region, factor);
        }
        self.memory.reset(kept_until);
        Ok(())
    }

    fn accumulate(&mut self, sum: Region, part: Region, factor: f32) {
        let (sum, part) = self.memory.floats_pair(sum, part);
        for (s, p) in sum.iter_mut().zip(part) {
            *s += factor * p;
        }
    }

    /// A value's cotangent so far, zeros if nothing contributed.
    fn zeros(&mut self, id: ValueId, n: usize, cotangents: &mut HashMap<ValueId, Region>) -> Result<Region> {
        if let Some(&region) = cotangents.get(&id) {
            return Ok(region);
        }
        let region = self.memory.take(self.bytes(id, n))?;
        self.memory.floats_mut(region).fill(0.0);
        cotangents.insert(id, region);
        Ok(region)
    }
}
