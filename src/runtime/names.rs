//! ggml's op numbers by name: the numbers change between releases, the names do not.

use super::abi::Table;
use super::text;
use crate::error::{Error, Kind, Result};
use crate::ir::{Glu, Op, Unary};
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};

/// Maps between a runtime's op numbers and [`Op`].
#[derive(Debug)]
pub struct Names {
    ops: Vec<String>,
    unary: Vec<String>,
    glu: Vec<String>,
    numbers: BTreeMap<String, c_int>,
}

impl Names {
    pub(super) fn read(table: &Table) -> Result<Self> {
        let list = |n: u32, name: unsafe extern "C" fn(c_int) -> *const c_char| -> Vec<String> {
            // SAFETY: the numbers below the count all have a static name.
            (0..n as c_int).map(|i| unsafe { text(name(i)) }).collect()
        };
        let ops = list(table.n_ops, table.op_name);
        let numbers: BTreeMap<_, _> = ops.iter().enumerate().map(|(i, name)| (name.clone(), i as c_int)).collect();
        for needed in ["NONE", "MUL_MAT", "FLASH_ATTN_EXT", "VIEW", "UNARY", "GLU", "ROPE", "ROPE_BACK", "CPY"] {
            if !numbers.contains_key(needed) {
                return Err(Error::new(Kind::Unsupported, format!("this ggml has no op named {needed}")));
            }
        }
        let (unary, glu) = (list(table.n_unary_ops, table.unary_op_name), list(table.n_glu_ops, table.glu_op_name));
        Ok(Self { ops, unary, glu, numbers })
    }

    /// ggml's number for the op named so.
    pub fn number(&self, name: &str) -> Option<c_int> {
        self.numbers.get(name).copied()
    }

    /// ggml's name for an op number.
    pub fn name(&self, number: c_int) -> &str {
        usize::try_from(number).ok().and_then(|i| self.ops.get(i)).map_or("?", String::as_str)
    }

    /// ggml's number and, for `UNARY` and `GLU`, `op_params[0]`, of an op.
    pub fn of(&self, op: &Op) -> Option<(c_int, Option<i32>)> {
        let position = |list: &[String], name: &str| list.iter().position(|n| n == name).map(|i| i as i32);
        match op {
            Op::Unary(u) => Some((self.number("UNARY")?, Some(position(&self.unary, u.name())?))),
            Op::Glu(g) => Some((self.number("GLU")?, Some(position(&self.glu, g.name())?))),
            Op::Grad(_) => None,
            // The part after the colon is in the op_params, which are copied.
            Op::Other(name) => Some((self.number(name.split(':').next()?)?, None)),
            other => Some((self.number(&other.name())?, None)),
        }
    }

    /// The op of a traced node.
    pub fn op(&self, number: c_int, params: &[i32; 16]) -> Op {
        let sub = |list: &[String]| usize::try_from(params[0]).ok().and_then(|i| list.get(i).cloned());
        let name = self.name(number);
        match name {
            "VIEW" => Op::View,
            "RESHAPE" => Op::Reshape,
            "PERMUTE" => Op::Permute,
            "TRANSPOSE" => Op::Transpose,
            "CONT" => Op::Cont,
            "CPY" => Op::Cast,
            "ADD" => Op::Add,
            "SUB" => Op::Sub,
            "MUL" => Op::Mul,
            "DIV" => Op::Div,
            "SCALE" => Op::Scale,
            "CLAMP" => Op::Clamp,
            "SQR" => Op::Sqr,
            "SQRT" => Op::Sqrt,
            "LOG" => Op::Log,
            "SUM_ROWS" => Op::SumRows,
            "MEAN" => Op::Mean,
            "REPEAT" => Op::Repeat,
            "CONCAT" => Op::Concat,
            "MUL_MAT" => Op::MulMat,
            "MUL_MAT_ID" => Op::MulMatId,
            "ADD_ID" => Op::AddId,
            "GET_ROWS" => Op::GetRows,
            "RMS_NORM" => Op::RmsNorm,
            "NORM" => Op::Norm,
            "L2_NORM" => Op::L2Norm,
            "SOFT_MAX" => Op::SoftMax,
            "ROPE" => Op::Rope,
            "FLASH_ATTN_EXT" => Op::Attention,
            "UNARY" => match sub(&self.unary) {
                Some(n) => match Unary::ALL.iter().find(|(_, u)| *u == n) {
                    Some((u, _)) => Op::Unary(*u),
                    None => Op::Other(format!("UNARY:{n}")),
                },
                None => Op::Other(name.to_owned()),
            },
            "GLU" => match sub(&self.glu) {
                Some(n) => match Glu::ALL.iter().find(|(_, g)| *g == n) {
                    Some((g, _)) => Op::Glu(*g),
                    None => Op::Other(format!("GLU:{n}")),
                },
                None => Op::Other(name.to_owned()),
            },
            other => Op::Other(other.to_owned()),
        }
    }
}
