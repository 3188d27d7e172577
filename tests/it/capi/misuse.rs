//! Every function × every misuse of every argument: the status that the header promises, detail in the caller's error object,
//! no output touched, and nothing broken for the next call.

use super::arena::{recipe, Arena};
use super::header;
use super::layouts::Layout;
use super::slots::{Function, Slot, Type, HANDLES};
use super::table::functions;
use super::table_neurons::answer_tokens;
use super::world::{message, World, PAIRS};
use llama_align::capi::*;
use llama_align::runtime::Host;
use std::collections::BTreeSet;

/// One misuse of one argument.
struct Misuse {
    what: String,
    value: usize,
    status: i32,
}

const ARGUMENT: i32 = LLAMA_ALIGN_ERR_ARGUMENT;

/// All that can be wrong with an argument.
fn misuses(slot: Slot, arena: &mut Arena, world: &World, freed: &World) -> Vec<Misuse> {
    let mut list = Vec::new();
    let mut add = |what: String, value: usize, status: i32| list.push(Misuse { what, value, status });
    match slot {
        Slot::Whole => return misuses(Slot::Handle(Type::Adapter), arena, world, freed),
        Slot::Handle(handle) | Slot::OptionalHandle(handle) => {
            if matches!(slot, Slot::Handle(_)) {
                add("NULL".into(), 0, ARGUMENT);
            }
            add("a freed handle".into(), freed.handle(handle), ARGUMENT);
            for other in HANDLES.into_iter().filter(|o| *o != handle) {
                add(format!("a handle of a {other:?}"), world.handle(other), ARGUMENT);
            }
            add("an address".into(), arena.block(0, 0), ARGUMENT);
            add("all bits set".into(), usize::MAX, ARGUMENT);
        }
        Slot::Absent(handle) => {
            add("one too many".into(), world.handle(handle), ARGUMENT);
            add("a freed handle".into(), freed.handle(handle), ARGUMENT);
            add("a handle of another type".into(), world.handle(Type::Trainer), ARGUMENT);
            add("all bits set".into(), usize::MAX, ARGUMENT);
        }
        Slot::Blocks => {
            add("NULL".into(), 0, ARGUMENT);
            for value in [f64::NAN, f64::INFINITY] {
                add(format!("an element of {value}"), arena.two([0.5, value]), ARGUMENT);
            }
        }
        Slot::BlockCount => {
            for (what, value) in [("none", 0), ("one too many", 3), ("more than there can be", usize::MAX)] {
                add(what.into(), value, ARGUMENT);
            }
        }
        Slot::Choice => add("a number without a meaning".into(), 77, ARGUMENT),
        Slot::OutHandle | Slot::OutNumber | Slot::Init(_) => add("NULL".into(), 0, ARGUMENT),
        Slot::Library => {
            add("NULL".into(), 0, ARGUMENT);
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            add("a missing file".into(), arena.string("/nowhere/libllama.so"), LLAMA_ALIGN_ERR_MISSING);
            add("an empty path".into(), arena.string(""), LLAMA_ALIGN_ERR_MISSING);
            add(
                "no library".into(),
                arena.string(world.file("model.gguf").to_str().unwrap()),
                LLAMA_ALIGN_ERR_UNSUPPORTED,
            );
        }
        Slot::Input(_) | Slot::OptionalInput(_) => {
            if matches!(slot, Slot::Input(_)) {
                add("NULL".into(), 0, ARGUMENT);
            }
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            add("a missing file".into(), arena.string("/nowhere/a.gguf"), LLAMA_ALIGN_ERR_MISSING);
            add("an empty path".into(), arena.string(""), LLAMA_ALIGN_ERR_MISSING);
        }
        Slot::Host => {
            add("NULL".into(), 0, ARGUMENT);
            add("all zero".into(), arena.block(0, 0), ARGUMENT);
            for (what, word, value, status) in [
                ("another version", 0, 2, ARGUMENT),
                ("another size", 1, 8, ARGUMENT),
                ("larger tensors", 2, 344, LLAMA_ALIGN_ERR_UNSUPPORTED),
                ("longer names", 2 + 14, 128, LLAMA_ALIGN_ERR_UNSUPPORTED),
                ("a function left out", size_of::<Host>() / 4 - 2, 0, ARGUMENT),
            ] {
                let at = arena.host(world);
                // SAFETY: a word of the host's struct; the last function takes two.
                unsafe {
                    (at as *mut u32).add(word).write(value);
                    if value == 0 {
                        (at as *mut u32).add(word + 1).write(0);
                    }
                }
                add(what.into(), at, status);
            }
        }
        Slot::LlamaModel => add("NULL".into(), 0, ARGUMENT),
        Slot::Bytes(_) => {
            add("NULL".into(), 0, ARGUMENT);
            add("zeros".into(), arena.bytes(vec![0; 1 << 20]), LLAMA_ALIGN_ERR_FORMAT);
        }
        Slot::FileBytes(_) => {
            add("none".into(), 0, LLAMA_ALIGN_ERR_FORMAT);
            add("too few".into(), 500, LLAMA_ALIGN_ERR_FORMAT);
            add("more than there can be".into(), usize::MAX, ARGUMENT);
        }
        Slot::Output(_) => {
            add("NULL".into(), 0, ARGUMENT);
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            add("a missing directory".into(), arena.string("/nowhere/a.gguf"), LLAMA_ALIGN_ERR_MISSING);
            let directory = world.directory.path().to_str().unwrap();
            add("a directory".into(), arena.string(directory), LLAMA_ALIGN_ERR_IO);
        }
        Slot::OutputDirectory(_) => {
            add("NULL".into(), 0, ARGUMENT);
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            add("a missing directory".into(), arena.string("/nowhere/a"), LLAMA_ALIGN_ERR_MISSING);
            let file = arena.string(world.file("model.gguf").to_str().unwrap());
            add("a file".into(), file, LLAMA_ALIGN_ERR_IO);
        }
        Slot::OptionalName(_) => add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT),
        Slot::OptionalText(_) => {
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            add("an unknown name".into(), arena.string("zzz"), ARGUMENT);
            add("an empty list".into(), arena.string(""), ARGUMENT);
        }
        Slot::Params(layout) => params(layout, arena, &mut add),
        Slot::InitSize(layout) => {
            sizes(layout).into_iter().for_each(|size| add(format!("struct_size {size}"), size as usize, ARGUMENT));
        }
        Slot::OutStruct(layout) | Slot::OptionalOutStruct(layout) => {
            if matches!(slot, Slot::OutStruct(_)) {
                add("NULL".into(), 0, ARGUMENT);
            }
            for size in sizes(layout) {
                add(format!("struct_size {size}"), arena.block(size, 9), ARGUMENT);
            }
        }
        Slot::Texts(i) => {
            add("NULL".into(), 0, ARGUMENT);
            let blank = arena.string(" \n");
            for (what, element, status) in [
                ("an element that is NULL", 0, ARGUMENT),
                ("an element that is no UTF-8", arena.string(b"\xff".to_vec()), ARGUMENT),
                ("an empty element", blank, LLAMA_ALIGN_ERR_DATA),
            ] {
                let column = arena.column(i);
                column.pointers[2] = element as _;
                add(what.into(), column.pointers.as_ptr() as usize, status);
            }
        }
        Slot::Adapters => {
            add("NULL".into(), 0, ARGUMENT);
            for (what, other) in
                [("NULL", 0), ("a freed handle", freed.handle(Type::Adapter)), ("a model", world.handle(Type::Model))]
            {
                add(format!("an element that is {what}"), arena.two([world.handle(Type::Adapter), other]), ARGUMENT);
            }
        }
        Slot::Inputs(name) => {
            add("NULL".into(), 0, ARGUMENT);
            let good = arena.string(world.file(name).to_str().unwrap());
            for (what, element, status) in [
                ("an element that is NULL", 0, ARGUMENT),
                ("an element that is no UTF-8", arena.string(b"\xff".to_vec()), ARGUMENT),
                ("an element that is missing", arena.string("/nowhere/a.gguf"), LLAMA_ALIGN_ERR_MISSING),
            ] {
                add(what.into(), arena.two([good, element]), status);
            }
        }
        Slot::Scales => {
            for value in [f32::NAN, f32::INFINITY] {
                add(format!("an element of {value}"), arena.two([1.0, value]), ARGUMENT);
            }
        }
        Slot::Count => {
            add("more than there can be".into(), usize::MAX, ARGUMENT);
            add("none".into(), 0, ARGUMENT);
        }
        Slot::NewFile(_) | Slot::OptionalOutput(..) => {
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            let output = LLAMA_ALIGN_ERR_OUTPUT;
            add("a missing directory".into(), arena.string("/nowhere/a.gguf"), output);
            add("a directory".into(), arena.string(world.directory.path().to_str().unwrap()), output);
            let model = arena.string(world.file("model.gguf").to_str().unwrap());
            if let Slot::OptionalOutput(_, other) = slot {
                add("an input".into(), model, ARGUMENT);
                add("the other output".into(), arena.string(world.file(other).to_str().unwrap()), ARGUMENT);
            } else {
                add("NULL".into(), 0, ARGUMENT);
                add("an input".into(), model, output);
                add("a file that is there".into(), arena.string(world.file("rows.jsonl").to_str().unwrap()), output);
            }
        }
        Slot::Labels => {
            add("NULL".into(), 0, ARGUMENT);
            add("a label of 2".into(), arena.block(1, 2), ARGUMENT);
        }
        Slot::Recipe(a, _) => {
            add("NULL".into(), 0, ARGUMENT);
            add("no UTF-8".into(), arena.string(b"a\xff".to_vec()), ARGUMENT);
            let a = world.file(a).display().to_string();
            for (what, text, status) in [
                ("nothing", String::new(), ARGUMENT),
                ("no YAML", "{".to_owned(), ARGUMENT),
                ("an unknown method", recipe(&a, &a).replace("linear", "zzz"), ARGUMENT),
                ("an unknown word", recipe(&a, &a) + "zzz: 1\n", ARGUMENT),
                ("a missing model", recipe(&a, "/nowhere/a.gguf"), LLAMA_ALIGN_ERR_MISSING),
            ] {
                add(what.into(), arena.string(text), status);
            }
        }
        Slot::Ids => {
            add("NULL".into(), 0, ARGUMENT);
            add("an unknown id".into(), arena.block(0, 0), LLAMA_ALIGN_ERR_DATA);
        }
        Slot::Rows => {
            add("more than there can be".into(), usize::MAX, ARGUMENT);
            add("none".into(), 0, LLAMA_ALIGN_ERR_DATA);
        }
        Slot::Buffer => add("NULL".into(), 0, ARGUMENT),
        Slot::BufferBytes => add("too few".into(), 100, ARGUMENT),
        Slot::Error => {
            for size in [0, 15, 4097, u32::MAX] {
                add(format!("struct_size {size}"), arena.block(size, 9), ARGUMENT);
            }
        }
        Slot::Row => {
            add("one too many".into(), PAIRS.len(), ARGUMENT);
            add("all bits set".into(), usize::MAX, ARGUMENT);
        }
        Slot::Answer => add("one too many".into(), 2, ARGUMENT),
        Slot::Weights => {
            add("NULL".into(), 0, ARGUMENT);
            for value in [f32::NAN, f32::INFINITY, -1.0] {
                add(format!("an element of {value}"), arena.block(value.to_bits(), 0), ARGUMENT);
            }
        }
        Slot::WeightCount => {
            let n = answer_tokens(world.dataset, 0, 1);
            for (what, value) in [("none", 0), ("one too many", n + 1), ("more than there can be", usize::MAX)] {
                add(what.into(), value, ARGUMENT);
            }
        }
        Slot::Index => add("one too many".into(), world.n_devices(), ARGUMENT),
        Slot::Switch => {
            add("2".into(), 2, ARGUMENT);
            add("all bits set".into(), u32::MAX as usize, ARGUMENT);
        }
        Slot::Number(_) | Slot::Any | Slot::OptionalOutNumber => {}
    }
    list
}

fn sizes(layout: Layout) -> [u32; 5] {
    [0, 1, layout.bytes as u32 - 1, 4097, u32::MAX]
}

fn params(layout: Layout, arena: &mut Arena, add: &mut dyn FnMut(String, usize, i32)) {
    let mut changed = |what: String, change: &dyn Fn(*mut u8)| {
        let at = arena.params(layout);
        change(at as *mut u8);
        add(what, at, ARGUMENT);
    };
    // SAFETY: all writes are within a block, which is larger than every struct, at offsets of fields.
    unsafe {
        for size in sizes(layout) {
            changed(format!("struct_size {size}"), &|at| at.cast::<u32>().write(size));
        }
        for behind in [0, 7] {
            changed(format!("byte {behind} of the unknown tail"), &|at| {
                at.cast::<u32>().write(layout.bytes as u32 + 8);
                at.add(layout.bytes + behind).write(1);
            });
        }
        for &offset in layout.choices {
            for value in [0x7fff_ff00u32, u32::MAX] {
                changed(format!("{value} at byte {offset}"), &|at| at.add(offset).cast::<u32>().write(value));
            }
        }
        for &offset in layout.counts {
            changed(format!("0 at byte {offset}"), &|at| at.add(offset).cast::<u32>().write(0));
        }
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            for &offset in layout.singles {
                changed(format!("{value} at byte {offset}"), &|at| at.add(offset).cast::<f32>().write(value));
            }
            for &offset in layout.reals {
                let value = f64::from(value);
                changed(format!("{value} at byte {offset}"), &|at| at.add(offset).cast::<f64>().write(value));
            }
        }
    }
}

/// The first bytes at each output of a call.
fn outputs(function: &Function, arguments: &[usize]) -> Vec<Vec<u8>> {
    let bytes = |slot: &Slot| match slot {
        Slot::OutStruct(layout) | Slot::OptionalOutStruct(layout) | Slot::Init(layout) => layout.bytes,
        Slot::OutNumber | Slot::OptionalOutNumber => 8,
        Slot::Buffer => 64,
        _ => 0,
    };
    let pairs = function.slots.iter().zip(arguments).filter(|(slot, &at)| bytes(slot) > 0 && at != 0);
    // SAFETY: outputs point to blocks of an arena.
    pairs.map(|(slot, &at)| unsafe { std::slice::from_raw_parts(at as *const u8, bytes(slot)) }.to_vec()).collect()
}

/// Calls with one argument replaced; says what is wrong with the outcome, if anything is.
fn objection(function: &Function, place: usize, misuse: &Misuse, arena: &mut Arena, world: &World) -> Option<String> {
    for with_error in [true, false] {
        let mut arguments: Vec<usize> = function.slots.iter().map(|&slot| arena.valid(slot, world)).collect();
        let error_place = arguments.len() - 1;
        if !with_error && place != error_place {
            arguments[error_place] = 0;
        }
        arguments[place] = misuse.value;
        let before = outputs(function, &arguments);
        let status = (function.call)(&arguments);
        if status != misuse.status {
            return Some(format!("status {status} instead of {}", misuse.status));
        }
        if outputs(function, &arguments) != before {
            return Some("an output was written".into());
        }
        for (slot, &at) in function.slots.iter().zip(&arguments) {
            // SAFETY: a block of the arena.
            if matches!(slot, Slot::OutHandle) && at != 0 && unsafe { (at as *const usize).read() } != 0 {
                return Some("the output handle is not NULL".into());
            }
        }
        if with_error && place != error_place {
            // SAFETY: a block that was given as an error object.
            let err = unsafe { &*(arguments[error_place] as *const llama_align_error) };
            if err.status != status || message(err).is_empty() || message(err).contains("panic") {
                return Some(format!("the error object says {}: {:?}", err.status, message(err)));
            }
        }
    }
    None
}

/// A call with valid arguments; frees what it makes.
fn succeeds(function: &Function, arena: &mut Arena, world: &World) -> Option<String> {
    let arguments: Vec<usize> = function.slots.iter().map(|&slot| arena.valid(slot, world)).collect();
    let status = (function.call)(&arguments);
    // SAFETY: the last argument is an error object.
    let err = unsafe { &*(arguments[arguments.len() - 1] as *const llama_align_error) };
    let good = status >= 0 && err.status == status && message(err).is_empty();
    let place = function.slots.iter().position(|slot| matches!(slot, Slot::OutHandle));
    if let Some(place) = place.filter(|_| good) {
        // SAFETY: a handle was written there.
        let made = unsafe { (arguments[place] as *const usize).read() };
        if made == 0 {
            return Some("OK without a handle".into());
        }
        // What is of another type is left alone.
        llama_align_runtime_free(made as _);
        llama_align_model_free(made as _);
        llama_align_dataset_free(made as _);
        llama_align_adapter_free(made as _);
        llama_align_trainer_free(made as _);
    }
    (!good).then(|| format!("valid arguments give {status}: {}", message(err)))
}

fn freed() -> World {
    let mut world = World::new();
    let handles = (world.runtime, world.model, world.dataset, world.adapter, world.trainer);
    llama_align_runtime_free(world.runtime);
    llama_align_model_free(world.model);
    llama_align_adapter_free(world.adapter);
    llama_align_trainer_free(world.trainer);
    llama_align_dataset_free(world.dataset);
    (world.runtime, world.model, world.dataset, world.adapter, world.trainer) = handles;
    world
}

#[test]
fn every_misuse_of_every_argument_is_an_error() {
    let _one = crate::loaded::in_process();
    let (world, freed, mut arena) = (World::new(), freed(), Arena::default());
    let path = world.path("adapter.gguf");
    // SAFETY: a live adapter and a path.
    assert_eq!(unsafe { llama_align_adapter_save(world.adapter, path.as_ptr(), std::ptr::null_mut()) }, LLAMA_ALIGN_OK);
    world.write_tuned();
    let path = world.path("checkpoint.gguf");
    // SAFETY: a live trainer and a path.
    assert_eq!(unsafe { llama_align_trainer_save(world.trainer, path.as_ptr(), std::ptr::null_mut()) }, LLAMA_ALIGN_OK);
    std::fs::create_dir(world.file("peft")).unwrap();
    let path = world.path("peft");
    // SAFETY: a live adapter and a path.
    let status =
        unsafe { llama_align_adapter_to_peft(world.adapter, path.as_ptr(), std::ptr::null(), std::ptr::null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    world.write_run();
    world.write_neurons();
    let path = world.path("change.gguf");
    // SAFETY: a live adapter and a path.
    let status = unsafe { llama_align_adapter_save_change(world.whole, path.as_ptr(), std::ptr::null_mut()) };
    assert_eq!(status, LLAMA_ALIGN_OK);
    let (mut faults, mut n) = (Vec::new(), 0);
    for function in functions() {
        for (place, &slot) in function.slots.iter().enumerate() {
            for misuse in misuses(slot, &mut arena, &world, &freed) {
                n += 1;
                let found = objection(&function, place, &misuse, &mut arena, &world);
                faults.extend(found.map(|f| format!("{}, argument {place}, {}: {f}", function.name, misuse.what)));
            }
        }
        faults.extend(succeeds(&function, &mut arena, &world).map(|f| format!("{}: {f}", function.name)));
    }
    assert!(faults.is_empty(), "{} of {n} misuses:\n{}", faults.len(), faults.join("\n"));
    // Each was tried with an error object and without one.
    assert_eq!((functions().len(), n), (73, 1735), "the matrix has another size than it had");
}

#[test]
fn the_matrix_leaves_no_function_out() {
    let known: BTreeSet<String> = functions().iter().map(|f| f.name.to_owned()).collect();
    let infallible =
        ["version", "abi", "status_name", "runtime_free", "model_free", "dataset_free", "adapter_free", "trainer_free"];
    let infallible: BTreeSet<String> = infallible.iter().map(|n| format!("llama_align_{n}")).collect();
    let declared: BTreeSet<String> = header::functions(&header::committed()).into_iter().collect();
    assert_eq!(known.union(&infallible).cloned().collect::<BTreeSet<_>>(), declared);
}

#[test]
fn freeing_nothing_something_freed_or_something_else_does_nothing() {
    let (world, freed) = (World::new(), freed());
    let frees: [(Type, fn(usize)); 5] = [
        (Type::Runtime, |h| llama_align_runtime_free(h as _)),
        (Type::Model, |h| llama_align_model_free(h as _)),
        (Type::Dataset, |h| llama_align_dataset_free(h as _)),
        (Type::Adapter, |h| llama_align_adapter_free(h as _)),
        (Type::Trainer, |h| llama_align_trainer_free(h as _)),
    ];
    let mut place = 0u64;
    for (of, free) in frees {
        free(0);
        free(&raw mut place as usize);
        for handle in HANDLES {
            free(freed.handle(handle));
            if handle != of {
                free(world.handle(handle));
            }
        }
    }
    let mut arena = Arena::default();
    for function in functions().iter().filter(|f| f.name.ends_with("describe") || f.name.ends_with("cancel")) {
        assert_eq!(succeeds(function, &mut arena, &world), None, "{}", function.name);
    }
}
