//! The interface only grows: what `abi.txt` has recorded is in the header, as it was.

use super::header::{committed, root};
use std::fs;

/// Constants with their values, functions with their arguments, fields with their place and type; one per line, sorted.
fn interface(header: &str) -> Vec<String> {
    let lines = header.lines().map(|line| line.split("//").next().unwrap());
    let (directives, code): (Vec<_>, Vec<_>) = lines.partition(|line| line.trim_start().starts_with('#'));
    let constants = directives.iter().filter_map(|line| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        // The ABI's number is what grows; how functions are marked is not part of it.
        (!["LLAMA_ALIGN_ABI", "LLAMA_ALIGN_API"].contains(&name)).then(|| format!("{name} = {value}"))
    });
    let mut found: Vec<String> = constants.collect();
    let code = code.join("\n");
    let code = code.split_once("*/").unwrap().1;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut rest = code;
    while let Some((declaration, behind)) = rest.split_once(';') {
        let Some((head, first)) = declaration.split_once('{').filter(|(head, _)| head.contains("typedef struct"))
        else {
            let declaration = words(declaration.rsplit('}').next().unwrap().rsplit('{').next().unwrap());
            found.push(declaration.replace("LLAMA_ALIGN_API ", ""));
            rest = behind;
            continue;
        };
        let name = head.split_whitespace().last().unwrap();
        let (body, behind) = rest[rest.find('{').unwrap() + 1..].split_once('}').unwrap();
        assert!(body.starts_with(first), "{head}");
        let fields = body.split(';').map(words).filter(|field| !field.is_empty());
        found.extend(fields.enumerate().map(|(i, field)| format!("{name}[{i}] = {field}")));
        rest = behind.split_once(';').unwrap().1;
    }
    found.sort();
    found
}

#[test]
fn the_interface_only_grows() {
    let (path, now) = (root().join("tests/it/capi/abi.txt"), interface(&committed()));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, now.join("\n") + "\n").unwrap();
    }
    let recorded = fs::read_to_string(path).unwrap();
    assert!(recorded.lines().count() > 100, "abi.txt is no record");
    let gone: Vec<_> = recorded.lines().filter(|line| !now.iter().any(|l| l == line)).collect();
    assert!(
        gone.is_empty(),
        "gone or changed:\n{}\nA program that was compiled before breaks: a new soname (include/ABI.md), or, for what was never \
         released, UPDATE=1 cargo test --release --test it only_grows",
        gone.join("\n")
    );
}
