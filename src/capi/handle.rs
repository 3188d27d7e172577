//! Handles: a C pointer that holds a slot and a generation of one process-wide table, and is never dereferenced.

use super::status::argument;
use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What may stand behind a handle. One C type each; all are shared by reference count.
pub(super) trait Object: Any + Send + Sync {
    /// The C type, which has no values.
    type C;
    /// Its name in messages.
    const NAME: &'static str;
    /// Runs when the handle is freed, while calls may still use the object.
    fn on_free(&self) {}
}

/// Low bits of a handle: the slot. The rest is the slot's generation, which is never 0, so that no handle is NULL.
const SLOT_BITS: u32 = if usize::BITS >= 64 { 20 } else { 14 };
const SLOT_MAX: usize = (1 << SLOT_BITS) - 1;
const GENERATION_MAX: usize = usize::MAX >> SLOT_BITS;

struct Entry {
    object: Arc<dyn Any + Send + Sync>,
    name: &'static str,
    poisoned: Arc<AtomicBool>,
}

struct Slot {
    generation: usize,
    entry: Option<Entry>,
}

struct Table {
    slots: Vec<Slot>,
    /// Slots that can be taken again. One whose generations are used up is not among them.
    free: Vec<usize>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { slots: Vec::new(), free: Vec::new() });

fn table() -> MutexGuard<'static, Table> {
    // Nothing that can panic runs under the lock.
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn find(&mut self, handle: usize) -> Option<&mut Slot> {
        let (slot, generation) = (handle & SLOT_MAX, handle >> SLOT_BITS);
        self.slots.get_mut(slot).filter(|s| s.generation == generation && s.entry.is_some())
    }
}

/// An object in use by a call. If the call panics, the handle is poisoned.
pub(super) struct Use<T> {
    object: Arc<T>,
    poisoned: Arc<AtomicBool>,
    unwinding_before: bool,
}

impl<T> Use<T> {
    /// A reference that outlives the call.
    pub(super) fn share(&self) -> Arc<T> {
        self.object.clone()
    }
}

impl<T> Deref for Use<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> Drop for Use<T> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.unwinding_before {
            self.poisoned.store(true, Ordering::Release);
        }
    }
}

/// Puts an object into the table.
pub(super) fn insert<T: Object>(object: T) -> Result<*mut T::C> {
    let entry = Entry { object: Arc::new(object), name: T::NAME, poisoned: Arc::new(AtomicBool::new(false)) };
    let mut table = table();
    let slot = match table.free.pop() {
        Some(slot) => slot,
        None if table.slots.len() > SLOT_MAX => {
            return Err(Error::new(Kind::Memory, format!("more than {SLOT_MAX} handles are alive")));
        }
        None => {
            table.slots.push(Slot { generation: 0, entry: None });
            table.slots.len() - 1
        }
    };
    let place = &mut table.slots[slot];
    place.generation += 1;
    place.entry = Some(entry);
    Ok(std::ptr::without_provenance_mut(place.generation << SLOT_BITS | slot))
}

/// The object behind a handle.
///
/// # Errors
/// [`Kind::Argument`] for what is no live handle of that type, [`Kind::Poisoned`].
pub(super) fn get<T: Object>(handle: *const T::C) -> Result<Use<T>> {
    if handle.is_null() {
        return Err(argument(format!("{} is NULL", T::NAME)));
    }
    let (object, name, poisoned) = {
        let mut table = table();
        let entry = table.find(handle.addr()).and_then(|slot| slot.entry.as_ref());
        let Some(entry) = entry else {
            return Err(argument(format!("{}: no live handle: it was freed or never made", T::NAME)));
        };
        (entry.object.clone(), entry.name, entry.poisoned.clone())
    };
    let object = object.downcast::<T>().map_err(|_| argument(format!("{}: the handle is of a {name}", T::NAME)))?;
    if poisoned.load(Ordering::Acquire) {
        let message = format!("{}: an earlier call on this handle panicked; it can only be freed", T::NAME);
        return Err(Error::new(Kind::Poisoned, message));
    }
    Ok(Use { object, poisoned, unwinding_before: std::thread::panicking() })
}

/// Takes a handle out of the table; the object goes when its last user does.
pub(super) fn take<T: Object>(handle: *mut T::C) -> Option<Arc<T>> {
    let object = {
        let mut table = table();
        let slot = table.find(handle.addr())?;
        if !slot.entry.as_ref().is_some_and(|e| e.object.as_ref().is::<T>()) {
            return None;
        }
        let (entry, worn) = (slot.entry.take()?, slot.generation == GENERATION_MAX);
        if !worn {
            table.free.push(handle.addr() & SLOT_MAX);
        }
        entry.object
    };
    let object = object.downcast::<T>().ok()?;
    object.on_free();
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    struct Apple(u32);
    struct Pear;
    struct C<T>(std::marker::PhantomData<T>);

    impl Object for Apple {
        type C = C<Apple>;
        const NAME: &'static str = "apple";
    }

    impl Object for Pear {
        type C = C<Pear>;
        const NAME: &'static str = "pear";
    }

    fn fault<T>(result: Result<T>) -> (Kind, String) {
        let error = result.err().unwrap();
        (error.kind(), error.to_string())
    }

    #[test]
    fn freed_foreign_and_made_up_handles_are_told_apart() {
        let apple = insert(Apple(3)).unwrap();
        assert_eq!(get::<Apple>(apple).unwrap().0, 3);
        assert_eq!(fault(get::<Pear>(apple.cast())), (Kind::Argument, "pear: the handle is of a apple".into()));
        assert!(take::<Pear>(apple.cast()).is_none() && get::<Apple>(apple).is_ok(), "freed as another type");
        assert!(take::<Apple>(apple).is_some() && take::<Apple>(apple).is_none());
        let again = insert(Apple(4)).unwrap();
        assert!(again != apple && fault(get::<Apple>(apple)).1.contains("no live handle"), "a slot's old handle");
        let local = 0u64;
        assert!(fault(get::<Apple>((&raw const local).cast())).1.contains("no live handle"));
        assert_eq!(fault(get::<Apple>(std::ptr::null())), (Kind::Argument, "apple is NULL".into()));
        assert!(take::<Apple>(std::ptr::null_mut()).is_none());
        take::<Apple>(again);
    }

    #[test]
    fn a_panic_poisons_the_handles_of_its_call_and_no_others() {
        let (apple, other) = (insert(Apple(1)).unwrap(), insert(Apple(2)).unwrap());
        let call = || {
            let _in_use = get::<Apple>(apple).unwrap();
            panic!("a test's panic")
        };
        assert!(catch_unwind(AssertUnwindSafe(call)).map(|()| 0).is_err());
        assert_eq!(fault(get::<Apple>(apple)).0, Kind::Poisoned);
        assert!(get::<Apple>(other).is_ok());
        assert!(take::<Apple>(apple).is_some() && take::<Apple>(other).is_some());
    }

    #[test]
    fn an_object_outlives_its_handle_while_a_call_uses_it() {
        let apple = insert(Apple(5)).unwrap();
        let in_use = get::<Apple>(apple).unwrap();
        drop(take::<Apple>(apple));
        assert_eq!(in_use.0, 5);
    }
}
