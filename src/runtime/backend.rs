//! What graphs run on: the CPU alone, or devices with the CPU behind them, through ggml's scheduler.

use super::abi::{GgmlAllocator, GgmlBackend, GgmlDevice, GgmlGraph, GgmlScheduler, GgmlTensor, Table};
use super::guard::guarded;
use super::{Device, Runtime};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::Arc;

/// The CPU backend with its threads, and devices before it where the graphs are to be scheduled.
#[derive(Debug)]
pub struct Backend {
    pub(super) runtime: Arc<Runtime>,
    ptr: *mut GgmlBackend,
    alloc: *mut GgmlAllocator,
    pub(super) n_threads: usize,
    schedule: Option<Schedule>,
}

/// ggml's scheduler over some backends.
#[derive(Debug)]
struct Schedule {
    /// In order of preference; the CPU's backend comes after them.
    devices: Vec<Started>,
    sched: *mut GgmlScheduler,
    /// Tensors that a graph may have.
    size: usize,
    tally: Tally,
}

/// A device's backend; a second CPU backend that takes the place of one has no device.
#[derive(Debug)]
struct Started {
    device: *mut GgmlDevice,
    backend: *mut GgmlBackend,
}

impl Started {
    /// # Safety
    /// A live node whose sources live.
    unsafe fn supports(&self, table: &Table, node: *const GgmlTensor) -> bool {
        // SAFETY: by the caller; devices and backends live as long as the schedule.
        unsafe {
            match self.device.is_null() {
                true => (table.supports_op)(self.backend, node),
                false => (table.dev_supports_op)(self.device, node),
            }
        }
    }
}

/// Where the nodes of all graphs ran so far, by op; nodes that only rename memory are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// On a device.
    pub device: BTreeMap<String, u64>,
    /// On the CPU although a device has the op: beside their weights, or between two others.
    pub beside: BTreeMap<String, u64>,
    /// On the CPU because no device has the op in this shape or type.
    pub fallen_back: BTreeMap<String, u64>,
}

// SAFETY: owned by one session at a time; ggml keeps no thread affinity.
unsafe impl Send for Backend {}

impl Backend {
    /// A CPU backend with this many threads, but no more than there are cores.
    pub fn new(runtime: &Arc<Runtime>, n_threads: usize) -> Result<Self> {
        let n_threads = super::n_threads_started(n_threads);
        // SAFETY: plain calls; NULL is checked.
        let (ptr, alloc) = unsafe {
            let ptr = (runtime.table.backend_cpu)(n_threads as c_int);
            (ptr, if ptr.is_null() { std::ptr::null_mut() } else { (runtime.table.alloc_new)(ptr) })
        };
        if alloc.is_null() {
            return Err(Error::new(Kind::Memory, "ggml makes no CPU backend"));
        }
        Ok(Self { runtime: runtime.clone(), ptr, alloc, n_threads, schedule: None })
    }

    /// Devices first and the CPU for what they lack. Without a device a second CPU backend takes the place of one, so that
    /// the same graphs go the same way.
    pub fn scheduled(runtime: &Arc<Runtime>, devices: &[Device], n_threads: usize) -> Result<Self> {
        let mut backend = Self::new(runtime, n_threads)?;
        let mut schedule =
            Schedule { devices: Vec::new(), sched: std::ptr::null_mut(), size: 0, tally: Tally::default() };
        for device in devices {
            // SAFETY: devices live as long as the process; NULL is checked.
            let made = guarded(|| unsafe { (runtime.table.dev_backend)(device.ptr) })?;
            if made.is_null() {
                free(runtime, &schedule);
                let message = format!("{}: the device cannot be started: {}", device.name, runtime.last_log());
                return Err(Error::new(Kind::Unsupported, message));
            }
            schedule.devices.push(Started { device: device.ptr, backend: made });
        }
        if devices.is_empty() {
            // SAFETY: plain call; NULL is checked.
            let made = unsafe { (runtime.table.backend_cpu)(backend.n_threads as c_int) };
            if made.is_null() {
                return Err(Error::new(Kind::Memory, "ggml makes no second CPU backend"));
            }
            schedule.devices.push(Started { device: std::ptr::null_mut(), backend: made });
        }
        backend.schedule = Some(schedule);
        Ok(backend)
    }

    /// Threads that run a graph.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Bytes that graphs use for their intermediate values: the most that one needed so far, devices included.
    pub fn work_bytes(&self) -> usize {
        let table = &self.runtime.table;
        match &self.schedule {
            // SAFETY: plain calls on a live scheduler and its own backends.
            Some(s) if !s.sched.is_null() => unsafe {
                let backends = s.devices.iter().map(|d| d.backend).chain([self.ptr]);
                backends.map(|b| (table.sched_bytes)(s.sched, b)).sum()
            },
            // SAFETY: plain call.
            _ => unsafe { (table.alloc_bytes)(self.alloc) },
        }
    }

    /// Where nodes ran so far; `None` where only the CPU computes.
    pub fn tally(&self) -> Option<&Tally> {
        self.schedule.as_ref().map(|s| &s.tally)
    }

    pub(super) fn is_scheduled(&self) -> bool {
        self.schedule.is_some()
    }

    /// True if some device can run the node; without devices, if the CPU can.
    pub(super) fn supports(&self, node: *const GgmlTensor) -> bool {
        let table = &self.runtime.table;
        match &self.schedule {
            Some(schedule) => schedule.devices.iter().any(|d| {
                // SAFETY: a node of a graph under construction, whose sources live.
                unsafe { d.supports(table, node) }
            }),
            // SAFETY: as above.
            None => unsafe { (table.supports_op)(self.ptr, node) },
        }
    }

    /// Makes room for graphs of `n_tensors`.
    pub(super) fn reserve(&mut self, n_tensors: usize) -> Result<()> {
        let (table, cpu) = (&self.runtime.table, self.ptr);
        let Some(schedule) = self.schedule.as_mut().filter(|s| s.size < n_tensors) else { return Ok(()) };
        let mut backends: Vec<_> = schedule.devices.iter().map(|d| d.backend).chain([cpu]).collect();
        // SAFETY: live backends, the CPU's last; the old scheduler holds nothing that outlives a graph.
        unsafe {
            if !schedule.sched.is_null() {
                (table.sched_free)(schedule.sched);
            }
            schedule.sched = (table.sched_new)(backends.as_mut_ptr(), backends.len() as c_int, n_tensors);
        }
        schedule.size = if schedule.sched.is_null() { 0 } else { n_tensors };
        match schedule.sched.is_null() {
            true => Err(Error::new(Kind::Memory, "ggml makes no scheduler")),
            false => Ok(()),
        }
    }

    /// Places a graph's values and runs it; returns ggml's status.
    ///
    /// # Safety
    /// A graph that was made for this backend, not larger than reserved, whose sources live.
    pub(super) unsafe fn run(&mut self, graph: *mut GgmlGraph) -> Result<c_int> {
        let table = self.runtime.table;
        let no_room = || Error::new(Kind::Memory, "ggml has no memory for a graph's intermediate values");
        let Some(schedule) = &mut self.schedule else {
            // SAFETY: by the caller.
            return unsafe {
                if !(table.alloc_graph)(self.alloc, graph) {
                    return Err(no_room());
                }
                Ok((table.compute)(self.ptr, graph))
            };
        };
        let sched = schedule.sched;
        // SAFETY: by the caller; a scheduler is reset before it sees another graph.
        let placed = guarded(|| unsafe {
            (table.sched_reset)(sched);
            (table.sched_alloc)(sched, graph)
        })?;
        if !placed {
            return Err(Error::new(Kind::Memory, format!("{}; {}", no_room(), self.runtime.last_log())));
        }
        // SAFETY: the scheduler knows every node of the graph it has placed.
        unsafe { self.count(graph) };
        // SAFETY: as above.
        guarded(|| unsafe { (table.sched_compute)(sched, graph) })
    }

    /// # Safety
    /// The graph is the one that the scheduler placed last.
    unsafe fn count(&mut self, graph: *mut GgmlGraph) {
        let (table, names) = (&self.runtime.table, self.runtime.names());
        let Some(schedule) = &mut self.schedule else { return };
        // SAFETY: by the caller.
        let n = unsafe { (table.graph_n_nodes)(graph) };
        for i in 0..n {
            // SAFETY: below the count; nodes and their backends live.
            let (name, on_cpu, has_op) = unsafe {
                let node = (table.graph_node)(graph, i);
                let on_cpu = (table.sched_backend)(schedule.sched, node) == self.ptr;
                let has_op = || schedule.devices.iter().any(|d| d.supports(table, node));
                (names.name((*node).op), on_cpu, !on_cpu || has_op())
            };
            if ["NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"].contains(&name) {
                continue;
            }
            let tally = &mut schedule.tally;
            let list = match (on_cpu, has_op) {
                (false, _) => &mut tally.device,
                (true, true) => &mut tally.beside,
                (true, false) => &mut tally.fallen_back,
            };
            match list.get_mut(name) {
                Some(n) => *n += 1,
                None => {
                    list.insert(name.to_owned(), 1);
                }
            }
        }
    }
}

/// Frees a schedule's scheduler and devices.
fn free(runtime: &Runtime, schedule: &Schedule) {
    // SAFETY: made by `dev_backend`, `backend_cpu` and `sched_new`, freed once; the scheduler before what it schedules.
    unsafe {
        if !schedule.sched.is_null() {
            (runtime.table.sched_free)(schedule.sched);
        }
        for device in &schedule.devices {
            (runtime.table.backend_free)(device.backend);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(schedule) = &self.schedule {
            free(&self.runtime, schedule);
        }
        // SAFETY: both made by `new`, freed once.
        unsafe {
            (self.runtime.table.alloc_free)(self.alloc);
            (self.runtime.table.backend_free)(self.ptr);
        }
    }
}
