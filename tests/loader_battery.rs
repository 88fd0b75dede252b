//! Corners of the loader's rules, built with the C compiler and compared with the loader itself.

mod oracle;

use std::path::{Path, PathBuf};
use std::process::Command;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Outcome, Resolution, Search};

use oracle::{differences, ours, skip, trace_by_exec};

/// A directory of objects made for one case.
struct Battery {
    directory: PathBuf,
}

impl Drop for Battery {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Battery {
    fn path(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn link(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        let output = self.path(name);
        let mut compile = Command::new("gcc");
        compile.args(["-nostdlib", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed"]);
        compile.args(["-Wl,--allow-shlib-undefined", "-Wl,--unresolved-symbols=ignore-all", "-o"]);
        compile.arg(&output);
        for (index, need) in needs.iter().enumerate() {
            // The linker copies a SONAME into DT_NEEDED, so a stand-in of any SONAME gives any need.
            let stub = format!("stubs/{}-{index}.so", name.replace('/', "_"));
            self.link(&stub, &[], &["-shared", "-fPIC", &format!("-Wl,-soname,{need}")]);
            compile.arg(self.directory.join(&stub));
        }
        compile.args(arguments).stdin(std::process::Stdio::piped());
        let mut child = compile.spawn().unwrap();
        let source = "void _start(void) { for (;;); }";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{name} does not link");
        output
    }

    /// A library; its SONAME is its file name unless the arguments set another.
    fn library(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        let soname = format!("-Wl,-soname,{}", name.rsplit('/').next().unwrap());
        let mut all = vec!["-shared", "-fPIC"];
        if !arguments.iter().any(|argument| argument.contains("-soname")) && !arguments.contains(&"nameless")
        {
            all.push(&soname);
        }
        all.extend(arguments.iter().filter(|argument| **argument != "nameless"));
        self.link(name, needs, &all)
    }

    fn program(&self, needs: &[&str], arguments: &[&str]) -> PathBuf {
        self.link("bin/program", needs, arguments)
    }

    fn patch(&self, file: &Path, at: usize, bytes: &[u8]) {
        let mut content = std::fs::read(file).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(file, content).unwrap();
    }

    fn resolve(&self, program: &Path) -> Resolution {
        let root = SourceRoot::host().unwrap();
        let real = std::fs::canonicalize(program).unwrap();
        Search::new(&root, Some(self.directory.clone())).resolve(&real, &[]).unwrap()
    }

    fn found(&self, program: &Path) -> Vec<String> {
        let resolution = self.resolve(program);
        let found = resolution.edges.iter().filter_map(|edge| match &edge.outcome {
            Outcome::Found { path: Some(path), .. } => {
                let directory = std::fs::canonicalize(path.parent()?).unwrap();
                Some(directory.strip_prefix(&self.directory).ok()?.join(path.file_name()?))
            }
            _ => None,
        });
        found.map(|path| path.display().to_string()).collect()
    }
}

const fn rpath() -> &'static str {
    "-Wl,--disable-new-dtags"
}

const fn runpath() -> &'static str {
    "-Wl,--enable-new-dtags"
}

/// Builds a case and asserts that the loader and we agree on it, and that it `loads`.
fn agree(name: &str, loads: bool, build: impl FnOnce(&Battery) -> PathBuf) {
    let tools = Path::new("/lib64/ld-linux-x86-64.so.2").exists()
        && Command::new("gcc").arg("--version").output().is_ok_and(|output| output.status.success());
    if !tools {
        return skip("gcc and a glibc loader for x86-64 are wanted");
    }
    let directory = std::env::temp_dir().join(format!("jailmk-battery-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let battery = Battery { directory: std::fs::canonicalize(directory).unwrap() };
    let program = build(&battery);
    let loader = trace_by_exec(&program, &battery.directory);
    let ours = ours(&battery.resolve(&program));
    assert_eq!(loader.is_some(), loads, "the case is not what it says: {loader:?}");
    match (&loader, &ours) {
        (Some(loader), Some(ours)) => {
            let differences = differences(loader, ours);
            assert!(differences.is_empty(), "{differences:#?}\nloader: {loader:#?}\nours: {ours:#?}");
        }
        (None, None) => {}
        _ => panic!("loader: {loader:#?}\nours: {ours:#?}"),
    }
}

macro_rules! rpath_to {
    ($directory:expr) => {
        concat!("-Wl,-rpath,", $directory)
    };
}

#[test]
fn rpath_of_the_program_serves_a_grandchild() {
    agree("01", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn runpath_is_not_inherited() {
    agree("02", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn runpath_of_the_requester_hides_every_rpath() {
    agree("03", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[runpath(), rpath_to!("$ORIGIN/../none")]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn lib_token_has_the_value_of_the_loaders_build() {
    agree("04", true, |b| {
        b.library("bin/lib/x86_64-linux-gnu/liba.so", &[], &[]);
        b.library("bin/lib64/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("${ORIGIN}/$LIB")])
    });
}

#[test]
fn platform_token_finds_every_value_that_a_processor_gives() {
    agree("05", true, |b| {
        for platform in ["haswell", "xeon_phi", "x86_64"] {
            b.library(&format!("bin/{platform}/liba.so"), &[], &[]);
        }
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/$PLATFORM")])
    });
}

#[test]
fn hardware_variants_are_found_beside_the_baseline() {
    agree("06", true, |b| {
        for directory in ["l", "l/glibc-hwcaps/x86-64-v2", "l/glibc-hwcaps/x86-64-v3"] {
            b.library(&format!("{directory}/liba.so"), &["libb.so"], &[runpath(), rpath_to!("$ORIGIN")]);
            b.library(&format!("{directory}/libb.so"), &[], &[]);
        }
        let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let found = b.found(&program);
        for file in ["l/liba.so", "l/glibc-hwcaps/x86-64-v2/liba.so", "l/glibc-hwcaps/x86-64-v3/libb.so"] {
            assert!(found.iter().any(|path| path == file), "{file} in {found:?}");
        }
        program
    });
}

#[test]
fn legacy_subdirectories_are_searched_where_the_loader_is_old_enough() {
    agree("07", true, |b| {
        b.library("l/tls/liba.so", &[], &[]);
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn another_class_is_passed_over() {
    agree("08", true, |b| {
        let other = b.library("x/liba.so", &[], &[]);
        b.patch(&other, 4, &[1]);
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn another_machine_is_passed_over() {
    agree("09", true, |b| {
        let other = b.library("x/liba.so", &[], &[]);
        b.patch(&other, 18, &[183, 0]);
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn a_text_file_as_candidate_stops_the_loader() {
    agree("10", false, |b| {
        std::fs::write(b.path("x/liba.so"), "/* GNU ld script */\n".repeat(8)).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn a_loaded_object_answers_to_its_soname() {
    agree("11", true, |b| {
        b.library("l/libfile.so", &[], &["-Wl,-soname,libname.so"]);
        b.library("l/libb.so", &["libname.so"], &[]);
        b.program(&["libfile.so", "libb.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn the_breadth_first_requester_decides() {
    agree("12", true, |b| {
        // Depth first, liba's own libc.so would come first.
        b.library("l/liba.so", &["libdeep.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        b.library("l/libdeep.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../one")]);
        b.library("l/libb.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../two")]);
        b.library("one/libx.so", &[], &[]);
        b.library("two/libx.so", &[], &[]);
        b.program(&["liba.so", "libb.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn the_soname_need_not_be_the_name_asked_for() {
    agree("13", true, |b| {
        b.library("l/liba.so", &[], &["-Wl,-soname,libother.so"]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn an_absolute_need_is_opened_as_it_is() {
    agree("14", true, |b| {
        let library = b.library("l/liba.so", &[], &[]);
        b.program(&[library.to_str().unwrap()], &[])
    });
}

#[test]
fn origin_in_a_need_is_replaced() {
    agree("15", true, |b| {
        b.library("l/liba.so", &[], &[]);
        b.program(&["$ORIGIN/../l/liba.so"], &[])
    });
}

#[test]
fn nodeflib_keeps_from_default_directories_and_the_cache() {
    agree("16", true, |b| {
        b.library("l/liba.so", &["libz.so.1"], &["-Wl,-z,nodefaultlib"]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn an_empty_element_is_the_working_directory() {
    agree("17", true, |b| {
        b.library("liba.so", &[], &[]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so", "libb.so"], &[runpath(), rpath_to!("$ORIGIN/../none::$ORIGIN/../l")])
    });
}

#[test]
fn origin_of_a_library_is_the_directory_of_its_link() {
    agree("18", true, |b| {
        b.library("real/liba.so", &["libb.so"], &[runpath(), rpath_to!("$ORIGIN")]);
        b.library("real/libb.so", &[], &[]);
        b.library("l/libb.so", &[], &[]);
        std::os::unix::fs::symlink("../real/liba.so", b.path("l/liba.so")).unwrap();
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn origin_of_a_program_is_its_real_directory() {
    agree("19", true, |b| {
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let link = b.path("elsewhere/deep/program");
        std::os::unix::fs::symlink("../../bin/program", &link).unwrap();
        link
    });
}

#[test]
fn an_auxiliary_is_loaded_and_may_be_missing() {
    agree("20", true, |b| {
        b.library(
            "l/liba.so",
            &[],
            &["-Wl,-f,libaux.so", "-Wl,-f,libmissing.so", runpath(), rpath_to!("$ORIGIN")],
        );
        b.library("l/libaux.so", &["libdeep.so"], &[runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libdeep.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn a_filter_needs_its_filtee() {
    agree("20b", true, |b| {
        b.library("l/liba.so", &[], &["-Wl,-F,libfiltee.so", runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libfiltee.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn a_directory_as_candidate_stops_the_loader() {
    agree("21", false, |b| {
        std::fs::create_dir_all(b.path("x/liba.so")).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn both_names_of_one_file_are_found() {
    agree("22", true, |b| {
        b.library("l/liba.so", &[], &["nameless"]);
        std::os::unix::fs::symlink("liba.so", b.path("l/libalias.so")).unwrap();
        let program = b.program(&["liba.so", "libalias.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let found = b.found(&program);
        assert!(found.iter().any(|path| path.ends_with("l/libalias.so")), "{found:?}");
        program
    });
}

#[test]
fn a_cycle_under_rpath_ends() {
    agree("23", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[]);
        b.library("l/libb.so", &["liba.so", "libb.so"], &[]);
        b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn a_relative_need_counts_from_the_working_directory() {
    agree("24", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["l/liba.so"], &[])
    });
}

#[test]
fn a_truncated_candidate_stops_the_loader() {
    agree("25", false, |b| {
        std::fs::write(b.path("x/liba.so"), b"\x7fELF\x02\x01\x01\0\0\0").unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn rpath_of_the_program_counts_behind_a_runpath_in_between() {
    agree("26", true, |b| {
        b.library("l/liba.so", &["libb.so"], &[runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libb.so", &["libc1.so"], &[]);
        b.library("l/libc1.so", &[], &[]);
        b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn a_longer_token_and_an_open_brace_are_no_tokens() {
    agree("27", true, |b| {
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGINX/../l:${ORIGIN/../l:$ORI/../l")])
    });
}

#[test]
fn a_link_to_itself_ends_its_list_only() {
    agree("28", true, |b| {
        std::os::unix::fs::symlink("liba.so", b.path("x/liba.so")).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn a_foreign_abi_stops_the_loader() {
    agree("29", false, |b| {
        let other = b.library("x/liba.so", &[], &[]);
        b.patch(&other, 7, &[9]);
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn the_dynamic_table_is_found_by_its_address() {
    agree("30", true, |b| {
        b.library("l/liba.so", &[], &[]);
        let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let bytes = std::fs::read(&program).unwrap();
        let headers = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
        let count = u16::from_le_bytes(bytes[56..58].try_into().unwrap()) as usize;
        let dynamic = (0..count).map(|index| headers + index * 56).find(|at| bytes[*at] == 2).unwrap();
        // p_offset points at nothing; p_vaddr is right.
        b.patch(&program, dynamic + 8, &0x40u64.to_le_bytes());
        program
    });
}

#[test]
fn a_name_that_is_no_utf_8_is_found() {
    agree("31", true, |b| {
        b.library("l/libQ.so", &[], &["nameless"]);
        let program = b.program(&["libQ.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let mut bytes = std::fs::read(&program).unwrap();
        let at = bytes.windows(7).position(|window| window == b"libQ.so").unwrap();
        bytes[at + 3] = 0xff;
        std::fs::write(&program, bytes).unwrap();
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"lib\xff.so");
        std::fs::rename(b.path("l/libQ.so"), b.directory.join("l").join(name)).unwrap();
        program
    });
}

#[test]
fn an_audit_library_is_found_with_the_programs_runpath() {
    // The loader does not list it, so it cannot be asked; it must not change anything else either.
    agree("32", true, |b| {
        b.library("l/liba.so", &[], &[]);
        b.library("l/libaudit-x.so", &[], &[]);
        let program =
            b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l"), "-Wl,--audit,libaudit-x.so"]);
        let found = b.found(&program);
        assert!(found.iter().any(|path| path.ends_with("libaudit-x.so")), "{found:?}");
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn a_chain_of_libraries_is_followed() {
    agree("33", true, |b| {
        let first = b.library("l/lib0.so", &["lib1.so"], &[]);
        let bytes = std::fs::read(first).unwrap();
        // Same length, so that the names can be written over.
        for index in 1..10u8 {
            let mut copy = bytes.clone();
            for (from, to) in [(b"lib1.so", index + 1), (b"lib0.so", index)] {
                let at = bytes.windows(7).position(|window| window == from).unwrap();
                copy[at + 3] = b'0' + to.min(9);
            }
            std::fs::write(b.path(&format!("l/lib{index}.so")), copy).unwrap();
        }
        b.program(&["lib0.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
}
