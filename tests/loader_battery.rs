//! Corners of the loader's rules, built with the C compiler and compared with the loader itself.

mod battery;
mod oracle;

use std::path::{Path, PathBuf};
use std::process::Command;

use jailmk::closure::search::{Environment, Outcome};

use battery::{Battery, agree, agree_with, rpath, runpath};

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
        let dynamic = b.program_header(&program, 2);
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

fn library_path(text: impl FnOnce(&str) -> String, battery: &Battery) -> Environment {
    let text = text(battery.directory.to_str().unwrap());
    Environment { library_path: Some(text.into()), preload: None }
}

#[test]
fn library_path_stands_between_rpath_and_runpath() {
    let variables: fn(&Battery) -> Environment = |b| library_path(|d| format!("{d}/e"), b);
    let libraries = |b: &Battery| {
        b.library("l/liba.so", &[], &[]);
        b.library("e/liba.so", &[], &[]);
    };
    agree_with("34", true, variables, |b| {
        libraries(b);
        b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")])
    });
    agree_with("34b", true, variables, |b| {
        libraries(b);
        let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let environment = library_path(|d| format!("{d}/e"), b);
        let resolution = b.resolve_with(&program, environment);
        let mut vias = resolution.edges.iter().filter_map(|edge| match &edge.outcome {
            Outcome::Found { via, .. } => Some(via.to_string()),
            _ => None,
        });
        assert!(vias.any(|via| via == "LD_LIBRARY_PATH"));
        program
    });
}

#[test]
fn library_path_takes_semicolons_tokens_and_the_working_directory() {
    let variables: fn(&Battery) -> Environment = |b| library_path(|d| format!("{d}/none;$ORIGIN/../e;"), b);
    agree_with("35", true, variables, |b| {
        b.library("e/liba.so", &["libb.so"], &[]);
        b.library("libb.so", &[], &[]);
        b.program(&["liba.so"], &[])
    });
}

#[test]
fn what_is_preloaded_answers_to_its_soname_and_may_be_missing() {
    let variables: fn(&Battery) -> Environment = |b| {
        let list = format!("{}/p/libfile.so libnone.so:libother.so", b.directory.display());
        Environment { library_path: None, preload: Some(list.into()) }
    };
    agree_with("36", true, variables, |b| {
        b.library("p/libfile.so", &["libdeep.so"], &["-Wl,-soname,liba.so", runpath(), rpath_to!("$ORIGIN")]);
        b.library("p/libdeep.so", &[], &[]);
        b.library("l/liba.so", &[], &[]);
        b.library("l/libother.so", &[], &[]);
        let program = b.program(&["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../l")]);
        let resolution = b.resolve_with(&program, variables(b));
        let missing = resolution.edges.iter().find(|edge| matches!(edge.outcome, Outcome::Missing { .. }));
        assert!(missing.is_some_and(|edge| resolution.is_optional(edge)), "{missing:?}");
        program
    });
}

#[test]
fn a_filter_without_its_filtee_is_no_program() {
    agree("37", true, |b| {
        b.library("l/liba.so", &[], &["-Wl,-F,libnone.so", runpath(), rpath_to!("$ORIGIN")]);
        let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
        let resolution = b.resolve(&program);
        let missing = resolution.edges.iter().find(|edge| matches!(edge.outcome, Outcome::Missing { .. }));
        assert!(missing.is_some_and(|edge| !resolution.is_optional(edge)), "{missing:?}");
        program
    });
}

#[test]
fn a_filtee_is_searched_before_its_filter() {
    // libaux comes before libb although it is asked for later: its libx is the one that counts.
    agree("38", true, |b| {
        b.library("l/liba.so", &["libb.so"], &["-Wl,-f,libaux.so", runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libb.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../one")]);
        b.library("l/libaux.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../two")]);
        b.library("one/libx.so", &[], &[]);
        b.library("two/libx.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
    // As it is when the filtee was loaded already and is still to be searched.
    agree("38b", true, |b| {
        b.library("l/liba.so", &[], &["-Wl,-f,libaux.so", runpath(), rpath_to!("$ORIGIN")]);
        b.library("l/libb.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../one")]);
        b.library("l/libaux.so", &["libx.so"], &[runpath(), rpath_to!("$ORIGIN/../two")]);
        b.library("one/libx.so", &[], &[]);
        b.library("two/libx.so", &[], &[]);
        b.program(&["liba.so", "libb.so", "libaux.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

/// Two candidates: one that is changed at some offsets, and a sound one behind it.
fn patched(name: &str, loads: bool, patches: &[(usize, &[u8])]) {
    agree(name, loads, |b| {
        let other = b.library("x/liba.so", &[], &[]);
        for (at, bytes) in patches {
            b.patch(&other, *at, bytes);
        }
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn the_header_of_a_candidate_is_judged_as_the_loader_judges_it() {
    patched("39-class", true, &[(4, &[9])]);
    patched("39-data", false, &[(5, &[2])]);
    patched("39-ident-version", false, &[(6, &[2])]);
    patched("39-gnu", true, &[(7, &[3])]);
    patched("39-gnu-abi-3", true, &[(7, &[3, 3])]);
    patched("39-gnu-abi-4", false, &[(7, &[3, 4])]);
    patched("39-sysv-abi-1", false, &[(8, &[1])]);
    patched("39-padding", false, &[(12, &[1])]);
    patched("39-version", false, &[(20, &[2])]);
    patched("39-type-relocatable", false, &[(16, &[1])]);
    patched("39-type-core", false, &[(16, &[4])]);
    patched("39-machine-and-type", true, &[(18, &[183]), (16, &[1])]);
    patched("39-machine-and-abi", true, &[(18, &[183]), (7, &[9])]);
    patched("39-machine-and-data", true, &[(18, &[183]), (5, &[2])]);
    patched("39-machine-and-version", false, &[(18, &[183]), (20, &[2])]);
    patched("39-phentsize", false, &[(54, &[57])]);
    patched("39-phoff", false, &[(32, &[0xff, 0xff, 0xff, 0x7f])]);
    // e_phnum 0: nothing to load.
    patched("39-phnum", false, &[(56, &[0, 0])]);
}

#[test]
fn a_program_is_no_library() {
    for (name, arguments) in
        [("40-pie", &["-pie"][..]), ("40-fixed", &["-no-pie"]), ("40-static", &["-static"])]
    {
        agree(name, false, |b| {
            b.link("x/liba.so", &[], arguments);
            b.library("l/liba.so", &[], &[]);
            b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
        });
    }
}

#[test]
fn segments_that_cannot_be_mapped_stop_the_loader() {
    agree("41", false, |b| {
        let other = b.library("l/liba.so", &[], &[]);
        let segment = b.program_header(&other, 1);
        // p_vaddr no longer fits p_offset.
        b.patch(&other, segment + 16, &[8]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn split_debug_information_stops_the_loader() {
    agree("42", false, |b| {
        let other = b.library("x/liba.so", &[], &[]);
        let stripped = b.path("stripped");
        let objcopy = Command::new("objcopy").arg("--only-keep-debug").args([&other, &stripped]).status();
        assert!(objcopy.unwrap().success());
        std::fs::rename(stripped, other).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l")])
    });
}

#[test]
fn origin_in_a_hardware_variant_is_its_own_directory() {
    agree("43", true, |b| {
        let below = "l/glibc-hwcaps/x86-64-v2";
        for directory in ["l", below] {
            b.library(&format!("{directory}/liba.so"), &["libb.so"], &[runpath(), rpath_to!("$ORIGIN/sub")]);
            b.library(&format!("{directory}/sub/libb.so"), &[], &["nameless"]);
        }
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")])
    });
}

#[test]
fn platform_in_a_need_finds_every_value_that_a_processor_gives() {
    agree("44", true, |b| {
        for platform in ["haswell", "xeon_phi", "x86_64"] {
            b.library(&format!("l/{platform}/liba.so"), &[], &["nameless"]);
        }
        let program = b.program(&["$ORIGIN/../l/$PLATFORM/liba.so"], &[]);
        assert!(b.found(&program).contains(&"l/x86_64/liba.so".to_owned()), "{:?}", b.found(&program));
        program
    });
}

#[test]
fn a_name_that_is_too_long_ends_its_list_only() {
    agree("45", true, |b| {
        let long = "x".repeat(300);
        let deep = format!("-Wl,-rpath,$ORIGIN/{long}:$ORIGIN/../l");
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), &deep])
    });
}

#[test]
fn a_socket_ends_its_list_only() {
    agree("45b", true, |b| {
        let _listener = std::os::unix::net::UnixListener::bind(b.path("x/liba.so")).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.library("y/libb.so", &["liba.so"], &[rpath(), rpath_to!("$ORIGIN/../x")]);
        b.program(&["liba.so", "libb.so"], &[rpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l:$ORIGIN/../y")])
    });
}

#[test]
fn a_file_in_place_of_a_directory_is_passed_over() {
    agree("46", true, |b| {
        std::fs::write(b.path("x"), "").unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../x:$ORIGIN/../l//")])
    });
}

#[test]
fn the_loader_answers_to_its_own_name() {
    agree("47", true, |b| b.program(&["ld-linux-x86-64.so.2", "libc.so.6"], &[]));
}

#[test]
fn the_size_of_the_string_table_counts_for_nothing() {
    for (name, size) in [("48-zero", 0u64), ("48-huge", u64::MAX)] {
        agree(name, true, |b| {
            b.library("l/liba.so", &[], &[]);
            let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
            patch_tag(b, &program, 10, size);
            program
        });
    }
}

/// Where a tag's entry is in the dynamic table, which lies at p_offset of its segment, and its value.
fn dynamic_entry(b: &Battery, file: &Path, tag: u64) -> (usize, u64) {
    let bytes = std::fs::read(file).unwrap();
    let header = b.program_header(file, 2);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (start, size) = (number(header + 8) as usize, number(header + 32) as usize);
    let at = (start..start + size).step_by(16).find(|at| number(*at) == tag).unwrap();
    (at, number(at + 8))
}

fn patch_tag(b: &Battery, file: &Path, tag: u64, value: u64) {
    let (at, _) = dynamic_entry(b, file, tag);
    b.patch(file, at + 8, &value.to_le_bytes());
}

#[test]
fn the_last_of_two_runpaths_counts() {
    agree("49", true, |b| {
        b.library("l/liba.so", &[], &[]);
        b.library("m/liba.so", &[], &[]);
        let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l:$ORIGIN/../m")]);
        // DT_DEBUG, which stands behind DT_RUNPATH, becomes another one: the second half of the list.
        let (_, value) = dynamic_entry(b, &program, 29);
        let (at, _) = dynamic_entry(b, &program, 21);
        b.patch(&program, at, &29u64.to_le_bytes());
        b.patch(&program, at + 8, &(value + "$ORIGIN/../l:".len() as u64).to_le_bytes());
        assert_eq!(b.found(&program), ["m/liba.so"]);
        program
    });
}

fn versioned(b: &Battery, file: &str, soname: &str, versions: &[&str]) -> PathBuf {
    let script = b.path("map");
    let nodes: Vec<String> = versions.iter().map(|v| format!("{v} {{ global: f_{v}; }};")).collect();
    std::fs::write(&script, nodes.concat()).unwrap();
    let source = b.path("v.c");
    let functions: Vec<String> = versions.iter().map(|v| format!("void f_{v}(void) {{}}")).collect();
    std::fs::write(&source, functions.concat()).unwrap();
    let output = b.path(file);
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-nostdlib", "-o"]).arg(&output).arg(&source);
    gcc.arg(format!("-Wl,-soname,{soname}")).arg(format!("-Wl,--version-script={}", script.display()));
    assert!(gcc.status().unwrap().success());
    output
}

/// A program that needs versions V1 and V2 of libv.so, linked with a library that has both.
fn needs_versions(b: &Battery) -> PathBuf {
    let whole = versioned(b, "whole/libv.so", "libv.so", &["V1", "V2"]);
    let source = b.path("main.c");
    let calls = "void f_V1(void); void f_V2(void); void _start(void) { f_V1(); f_V2(); for (;;); }";
    std::fs::write(&source, calls).unwrap();
    let program = b.path("bin/program");
    let mut gcc = Command::new("gcc");
    gcc.args(["-nostdlib", "-o"]).args([&program, &source, &whole]).arg(rpath_to!("$ORIGIN/../l"));
    assert!(gcc.status().unwrap().success());
    program
}

fn agree_on_versions(name: &str, build: impl FnOnce(&Battery) -> PathBuf, expected: &[&str]) {
    let Some(b) = Battery::new(name) else { return };
    let program = build(&b);
    let loader = oracle::trace_by_exec(&program, &b.directory, &Environment::default()).missing_versions;
    let ours = b.resolve(&program).mismatches.into_iter().map(|m| m.version.into_string().unwrap());
    assert_eq!(ours.collect::<std::collections::BTreeSet<_>>(), loader);
    assert_eq!(loader.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_library_without_a_version_that_is_needed_is_named() {
    let older = |b: &Battery| {
        versioned(b, "l/libv.so", "libv.so", &["V1"]);
        needs_versions(b)
    };
    agree_on_versions("50", older, &["V2"]);
    let same = |b: &Battery| {
        versioned(b, "l/libv.so", "libv.so", &["V0", "V1", "V2"]);
        needs_versions(b)
    };
    agree_on_versions("50b", same, &[]);
    // Without any versions it was linked against another build, which is allowed.
    let bare = |b: &Battery| {
        b.library("l/libv.so", &[], &[]);
        needs_versions(b)
    };
    agree_on_versions("50c", bare, &[]);
}

fn binary() -> PathBuf {
    std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from)
}

#[test]
fn a_lacking_version_stops_the_build_of_a_program_and_not_that_of_a_file() {
    let Some(b) = Battery::new("50d") else { return };
    versioned(&b, "l/libv.so", "libv.so", &["V1"]);
    let program = needs_versions(&b);
    let tree = Command::new(binary()).arg("tree").arg(&program).output().unwrap();
    let text = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.status.code() == Some(1) && text.contains("LACKS VERSION V2"), "{text}");
    std::fs::copy("/lib64/ld-linux-x86-64.so.2", b.path("lib64/ld-linux-x86-64.so.2")).unwrap();
    let spec = b.path("spec.toml");
    let build = |rootfs: &str| {
        std::fs::write(&spec, format!("[rootfs]\n{rootfs} = [\"/bin/program\"]\n")).unwrap();
        let mut build = Command::new(binary());
        build.args(["build", "--dry-run", "--trust-spec", "--from"]).arg(&b.directory);
        let output = build.arg("--output").arg(b.path("out")).arg(&spec).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, talk) = build("programs");
    assert!(status == Some(1) && talk.contains("it lacks version `V2`"), "{talk}");
    let (status, talk) = build("files");
    assert!(status == Some(0) && talk.contains("needs version V2 of /l/libv.so"), "{talk}");
}

#[test]
fn a_version_that_is_needed_weakly_may_lack() {
    let weak = |b: &Battery| {
        versioned(b, "l/libv.so", "libv.so", &["V1"]);
        let program = needs_versions(b);
        // VER_FLG_WEAK in vna_flags of both.
        let bytes = std::fs::read(&program).unwrap();
        for version in ["V1", "V2"] {
            let hash = version.bytes().fold(0u32, |hash, byte| (hash << 4) + u32::from(byte));
            let at = bytes.windows(4).position(|window| window == hash.to_le_bytes()).unwrap();
            b.patch(&program, at + 4, &[2, 0]);
        }
        program
    };
    agree_on_versions("51", weak, &[]);
}

#[test]
fn more_program_headers_than_the_kernel_reads_are_no_program() {
    let Some(b) = Battery::new("52") else { return };
    let program = b.program(&["libc.so.6"], &[]);
    let bytes = std::fs::read(&program).unwrap();
    let headers = bytes[64..64 + 56 * usize::from(bytes[56])].to_vec();
    for (count, runs) in [(1170u16, true), (1171, false)] {
        // The table moves to the end and is filled up with PT_NULL.
        let mut longer = bytes.clone();
        longer.resize(longer.len().next_multiple_of(8), 0);
        longer[32..40].copy_from_slice(&(bytes.len().next_multiple_of(8) as u64).to_le_bytes());
        longer[56..58].copy_from_slice(&count.to_le_bytes());
        longer.extend(&headers);
        longer.resize(bytes.len().next_multiple_of(8) + 56 * usize::from(count), 0);
        std::fs::write(&program, longer).unwrap();
        let exec = Command::new(&program).env("LD_TRACE_LOADED_OBJECTS", "1").output();
        assert_eq!(exec.is_ok(), runs, "{count}: {exec:?}");
        let root = jailmk::closure::root::SourceRoot::host().unwrap();
        let ours = jailmk::closure::search::Search::new(&root, None).resolve(&program, &[]);
        assert_eq!(ours.is_ok(), runs, "{count}: {:?}", ours.err());
    }
}

#[test]
fn an_audit_library_has_a_namespace_of_its_own() {
    let Some(b) = Battery::new("53") else { return };
    b.library("l/liba.so", &[], &[]);
    b.library("own/liba.so", &[], &[]);
    b.library("l/libaudit-x.so", &["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../own")]);
    let program =
        b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l"), "-Wl,--audit,libaudit-x.so"]);
    // It is listed nowhere; but the loader tells which files it maps.
    let output = Command::new(&program)
        .env_clear()
        .envs([("LD_TRACE_LOADED_OBJECTS", "1"), ("LD_DEBUG", "libs")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let tried = text.lines().filter_map(|line| line.split_once("trying file=")).map(|(_, path)| path);
    let tried: Vec<PathBuf> = tried.filter_map(|path| std::fs::canonicalize(path).ok()).collect();
    for file in ["own/liba.so", "l/liba.so", "l/libaudit-x.so"] {
        assert!(tried.contains(&b.directory.join(file)), "the loader tries {file}: {text}");
        assert!(b.found(&program).contains(&file.to_owned()), "{file} in {:?}", b.found(&program));
    }
}

#[test]
fn a_variable_of_our_own_process_changes_nothing() {
    let Some(b) = Battery::new("54") else { return };
    b.library("l/liba.so", &[], &[]);
    b.library("e/liba.so", &[], &[]);
    let program = b.program(&["liba.so"], &[runpath(), rpath_to!("$ORIGIN/../l")]);
    let tree = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["tree", "--paths"]).args(arguments).arg(&program);
        command.env("LD_LIBRARY_PATH", b.directory.join("e"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(tree(&[]).contains("/l/liba.so") && !tree(&[]).contains("/e/liba.so"));
    let list = b.directory.join("e");
    assert!(tree(&["--library-path", list.to_str().unwrap()]).contains("/e/liba.so"));
}
