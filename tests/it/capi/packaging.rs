//! `make install`, and what programs make of it: pkg-config and CMake, shared and static, wherever the prefix was moved to.

use super::examples::{library, on_one_core, text};
use super::header::root;
use super::world::World;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An installation of this build in a folder of its own, away from where `make install` was told that it would be.
struct Installed {
    world: World,
    prefix: PathBuf,
    libdir: PathBuf,
}

/// What Cargo made for these tests, in one folder.
fn built(to: &Path) {
    fs::create_dir_all(to).unwrap();
    let (shared, program) = (library(), Path::new(env!("CARGO_BIN_EXE_llama-align")));
    let archive = shared.with_extension("a");
    for (from, name) in
        [(shared.as_path(), "libllama_align.so"), (&archive, "libllama_align.a"), (program, "llama-align")]
    {
        std::os::unix::fs::symlink(from, to.join(name)).unwrap();
    }
}

fn make(variables: &[String]) -> Output {
    // A make that runs these tests has set variables for those under it.
    let mut command = Command::new("make");
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS").current_dir(root()).arg("install-strip").args(variables);
    command.output().unwrap()
}

fn succeeds(command: &mut Command) -> String {
    let ran = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(ran.status.success(), "{command:?}: {}{}", text(&ran.stdout), text(&ran.stderr));
    text(&ran.stdout)
}

impl Installed {
    fn new(kinds: &str, libdir: &str) -> Self {
        let world = World::new();
        built(&world.file("built"));
        let said = |name: &str| world.file(name).to_str().unwrap().to_owned();
        let ran = make(&[
            format!("DESTDIR={}", said("staged")),
            "PREFIX=/opt/align".into(),
            format!("LIBDIR=/opt/align/{libdir}"),
            format!("KINDS={kinds}"),
            format!("BUILT={}", said("built")),
        ]);
        assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
        let prefix = world.file("moved here");
        fs::rename(world.file("staged/opt/align"), &prefix).unwrap();
        let libdir = prefix.join(libdir);
        Self { world, prefix, libdir }
    }

    fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", self.libdir.join("pkgconfig")).args(arguments).arg("llama-align");
        // One flag each; a space in a path is written with a backslash.
        let line = succeeds(&mut command).trim().replace("\\ ", "\u{0}");
        line.split_whitespace().map(|flag| flag.replace('\u{0}', " ")).collect()
    }

    /// Compiles an example with pkg-config's flags.
    fn compile(&self, compiler: &str, source: &str, flags: &[&str]) -> PathBuf {
        let program = self.world.file(source.split('.').next().unwrap());
        let mut command = Command::new(compiler);
        command
            .args(["-Wall", "-Wextra", "-Werror"])
            .arg(root().join("c_examples").join(source))
            .arg("-o")
            .arg(&program);
        succeeds(command.args(self.pkg_config(flags)));
        program
    }

    /// Runs examples 01 and 04 on the tiny model.
    fn run(&self, inspect: &Path, raii: &Path, shared: bool) {
        let runs: [(&Path, &[&str], &str); 2] =
            [(inspect, &["model.gguf"], "llama: 2 blocks"), (raii, &["model.gguf", "kto.gguf"], "2 rows")];
        for (program, arguments, expected) in runs {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(self.world.directory.path()).env("LD_LIBRARY_PATH", &self.libdir);
            let said = succeeds(on_one_core(&mut command));
            assert!(said.contains(expected), "{}: {said}", program.display());
            assert_eq!(needs(program).contains("libllama_align.so.0"), shared, "{}", program.display());
        }
    }

    /// Configures and builds `c_examples/` by CMake.
    fn cmake(&self, target: &str) -> [PathBuf; 2] {
        let build = self.world.file(&target.replace(':', "-"));
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(root().join("c_examples")).arg("-B").arg(&build);
        configure.arg(format!("-DCMAKE_PREFIX_PATH={}", self.prefix.display()));
        succeeds(configure.arg(format!("-DLLAMA_ALIGN_LIBRARY={target}")));
        succeeds(Command::new("cmake").arg("--build").arg(&build).args(["--target", "01_inspect", "04_raii"]));
        ["01_inspect", "04_raii"].map(|name| build.join(name))
    }
}

/// The libraries that a program or library asks for.
fn needs(file: &Path) -> String {
    succeeds(Command::new("readelf").arg("-dW").arg(file)).lines().filter(|l| l.contains("(NEEDED)")).collect()
}

#[test]
fn an_installation_serves_pkg_config_and_cmake() {
    let installed = Installed::new("program shared static", "lib/x86_64-linux-gnu");
    let version = env!("CARGO_PKG_VERSION");
    let links = ["libllama_align.so", "libllama_align.so.0"].map(|n| fs::read_link(installed.libdir.join(n)).unwrap());
    assert_eq!(links, [PathBuf::from("libllama_align.so.0"), format!("libllama_align.so.{version}").into()]);
    // The name that programs ask for is one of them.
    let dynamic = succeeds(Command::new("readelf").arg("-dW").arg(installed.libdir.join("libllama_align.so")));
    assert!(dynamic.contains("soname: [libllama_align.so.0]"), "{dynamic}");
    let said = succeeds(Command::new(installed.prefix.join("bin/llama-align")).arg("--version"));
    assert!(said.contains(version), "{said}");
    for notice in ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY.md", "ABI.md"] {
        assert!(installed.prefix.join("share/doc/llama-align").join(notice).is_file(), "{notice}");
    }
    assert_eq!(installed.pkg_config(&["--modversion"]), [version]);

    let inspect = installed.compile("gcc", "01_inspect.c", &["--cflags", "--libs"]);
    let raii = installed.compile("g++", "04_raii.cpp", &["--cflags", "--libs"]);
    installed.run(&inspect, &raii, true);
    let [inspect, raii] = installed.cmake("llama-align::llama-align");
    installed.run(&inspect, &raii, true);
    let [inspect, raii] = installed.cmake("llama-align::static");
    installed.run(&inspect, &raii, false);
}

#[test]
fn an_archive_alone_is_enough() {
    let installed = Installed::new("static", "lib");
    let mut files: Vec<_> =
        fs::read_dir(&installed.libdir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["cmake", "libllama_align.a", "pkgconfig"]);
    let inspect = installed.compile("gcc", "01_inspect.c", &["--static", "--cflags", "--libs"]);
    let raii = installed.compile("g++", "04_raii.cpp", &["--static", "--cflags", "--libs"]);
    installed.run(&inspect, &raii, false);
    let [inspect, _] = installed.cmake("llama-align::llama-align");
    assert!(!needs(&inspect).contains("libllama_align"), "the archive was there and another library was taken");
}

#[test]
fn what_cannot_be_installed_or_found_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    built(Path::new(&at("built")));
    fs::remove_file(at("built/libllama_align.a")).unwrap();
    let installs = |changed: &[&str]| {
        let mut variables = vec![format!("DESTDIR={}", at("staged")), format!("BUILT={}", at("built"))];
        variables.extend(changed.iter().map(|&v| v.to_owned()));
        let ran = make(&variables);
        (ran.status.success(), text(&ran.stderr))
    };
    for (changed, reason) in [
        (&[][..], "libllama_align.a is missing: make build"),
        (&["KINDS=shared", "PREFIX=opt"], "must be absolute"),
        (&["KINDS=shared", "PREFIX=/opt/a b"], "characters that pkg-config and CMake"),
        (&["KINDS=shard"], "\"shard\" is none of program, shared, static"),
        (&["KINDS="], "KINDS is empty"),
    ] {
        let (done, said) = installs(changed);
        assert!(!done && said.contains(reason), "{changed:?}: {said}");
        assert!(!Path::new(&at("staged")).exists(), "{changed:?} left files");
    }
    let (done, said) = installs(&["KINDS=shared", "PREFIX=/usr", "INCLUDEDIR=/elsewhere/include"]);
    assert!(done, "{said}");
    let staged = fs::read_to_string(at("staged/usr/lib/pkgconfig/llama-align.pc")).unwrap();
    assert!(
        staged.contains("includedir=/elsewhere/include\n") && staged.contains("libdir=${prefix}/lib\n"),
        "{staged}"
    );

    // Each version that a program may ask for, in one run.
    let asked = [("0.1", true), ("0.1.0 EXACT", true), ("", true), ("0.2", false), ("0.1.99", false), ("1", false)];
    let mut script = String::from("cmake_minimum_required(VERSION 3.16)\nproject(versions NONE)\n");
    for (wanted, _) in asked {
        script += "unset(llama-align_DIR CACHE)\n";
        script += &format!(
            "find_package(llama-align {wanted} CONFIG QUIET PATHS \"{}\" NO_DEFAULT_PATH)\n",
            at("staged/usr")
        );
        script += &format!("if(llama-align_FOUND)\nmessage(\"[{wanted}] found\")\nendif()\n");
    }
    fs::write(at("CMakeLists.txt"), script).unwrap();
    let ran = Command::new("cmake").arg("-S").arg(directory.path()).arg("-B").arg(at("build")).output().unwrap();
    let said = text(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    for (wanted, found) in asked {
        assert_eq!(said.contains(&format!("[{wanted}] found")), found, "{wanted}: {said}");
    }
}
