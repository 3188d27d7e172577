//! A disk that is full, or a limit on the size of files: an error that names file and bytes, and a run that goes on later.

use super::Workshop;
use std::io::Write;
use std::process::{Command, Stdio};

const FLAGS: [&str; 12] =
    ["-t", "1", "--lora-rank", "4", "--batch-size", "2", "--grad-accum", "1", "--epochs", "2", "--save-steps", "2"];

#[test]
fn a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room() {
    let shop = Workshop::new(12);
    shop.finish("whole", &FLAGS);
    let disk = shop.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let checkpoint = shop.files("whole")["checkpoint-10.gguf"].len() / 1024;
    // Room for one checkpoint, and not for the draft of the next.
    if !mount(&format!("size={}k", checkpoint * 3 / 2)) {
        writeln!(std::io::stderr(), "a full disk was NOT tried: no tmpfs can be mounted here (root can)").unwrap();
        return;
    }
    let ran = std::panic::catch_unwind(|| {
        let full = shop.run("disk/run", &FLAGS);
        assert_eq!(full.status, Some(74), "{}", full.err);
        assert!(full.err.contains("disk/run/checkpoint-4.gguf: cannot write (at "), "{}", full.err);
        assert!(full.err.contains("bytes)") && full.err.contains("No space left"), "{}", full.err);
        let left: Vec<_> = shop.files("disk/run").into_keys().collect();
        assert_eq!(left, ["checkpoint-2.gguf", "metrics.jsonl"]);
        assert!(mount("remount,size=10m"));
        shop.finish("disk/run", &["--resume", "auto"]);
        shop.assert_same("whole", "disk/run", "after a full disk");
    });
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    ran.unwrap();
}

#[test]
fn a_limit_on_file_sizes_is_an_error_too() {
    let shop = Workshop::new(12);
    shop.finish("whole", &FLAGS);
    let program = env!("CARGO_BIN_EXE_llama-align");
    // Blocks of 512 or 1024 bytes: the checkpoint does not fit, whatever the shell means.
    let script = format!("ulimit -f 20; exec {program} train -m m.gguf -d rows.jsonl -o run {}", FLAGS.join(" "));
    let ran = Command::new("sh").args(["-c", &script]).current_dir(shop.path("")).output().unwrap();
    let err = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(74), "{err}");
    assert!(err.contains("run/checkpoint-2.gguf: cannot write (at ") && err.contains("too large"), "{err}");
    assert_eq!(shop.files("run").into_keys().collect::<Vec<_>>(), ["metrics.jsonl"]);
    shop.finish("run", &[&FLAGS[..], &["--resume", "auto"]].concat());
    shop.assert_same("whole", "run", "after a limit");
}
