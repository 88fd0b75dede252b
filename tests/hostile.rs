//! Files made to hang, exhaust or mislead a resolver, through the binary. It runs with 512 MiB of address
//! space and 20 seconds of processor time: what is not bounded dies of it.

mod need;

use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Search, SearchError};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const NEEDED: u64 = 1;
const SONAME: u64 = 14;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// A directory of its own, removed at the end.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Place {
    /// `None` where there is no loader that the programs could name.
    fn new(name: &str) -> Option<Place> {
        if !need::need("a glibc loader for x86-64", Path::new(LOADER).exists(), &[]) {
            return None;
        }
        // In memory where that can be, for there are tens of thousands of files.
        let shared = Path::new("/dev/shm");
        let writable = nix::unistd::access(shared, nix::unistd::AccessFlags::W_OK).is_ok();
        let base = if writable { shared.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("jailmk-hostile-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Some(Place(std::fs::canonicalize(path).unwrap()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn program(&self, entries: &[(u64, &[u8])]) -> PathBuf {
        self.write("program", &elf(Some(LOADER), entries))
    }

    /// The search path of this directory, as a tag.
    fn runpath(&self) -> Vec<u8> {
        self.0.as_os_str().to_owned().into_vec()
    }
}

/// A 64 bit x86-64 object of one segment; addresses and file offsets are the same.
fn elf(interpreter: Option<&str>, entries: &[(u64, &[u8])]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut headers = Vec::new();
    let start = 64 + 56 * 3u64;
    if let Some(interpreter) = interpreter {
        headers.push((3u32, start + 1, interpreter.len() as u64 + 1));
        strings.extend(interpreter.bytes().chain([0]));
    }
    let mut table = vec![(5, start)];
    for (tag, name) in entries {
        table.push((*tag, strings.len() as u64));
        strings.extend(name.iter().chain([&0]));
    }
    table.push((0, 0));
    strings.resize(strings.len().next_multiple_of(8), 0);
    let at = start + strings.len() as u64;
    let size = at + 16 * table.len() as u64;
    headers.push((1, 0, size));
    headers.push((2, at, 16 * table.len() as u64));
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    out.extend([0u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([0, 0, 0, 0, 64, 0, 56, 0, headers.len() as u8, 0, 64, 0, 0, 0, 0, 0]);
    for (kind, at, size) in headers {
        out.extend(kind.to_le_bytes());
        out.extend([4, 0, 0, 0]);
        out.extend([at, at, at, size, size, 0x1000].iter().flat_map(|word: &u64| word.to_le_bytes()));
    }
    out.resize(start as usize, 0);
    out.extend(strings);
    out.extend(table.iter().flat_map(|(tag, value)| [*tag, *value]).flat_map(u64::to_le_bytes));
    out
}

/// The status and the output of `jailmk tree`, bounded.
fn tree(arguments: &[&std::ffi::OsStr]) -> (Option<i32>, String) {
    let binary =
        std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 524288; ulimit -t 20; exec \"$@\"", "sh"]).arg(binary);
    let output = command.arg("tree").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).expect("names are printable");
    (output.status.code(), text + &String::from_utf8(output.stderr).unwrap())
}

fn paths(program: &Path) -> (Option<i32>, Vec<String>) {
    let (status, text) = tree(&["--paths".as_ref(), program.as_os_str()]);
    (status, text.lines().map(str::to_owned).collect())
}

#[test]
fn fifteen_hundred_needs_are_found() {
    let Some(place) = Place::new("wide") else { return };
    let names: Vec<String> = (0..1500).map(|index| format!("lib{index}.so")).collect();
    names.iter().for_each(|name| drop(place.write(name, &elf(None, &[]))));
    let runpath = place.runpath();
    let mut entries: Vec<(u64, &[u8])> = names.iter().map(|name| (NEEDED, name.as_bytes())).collect();
    entries.push((RUNPATH, &runpath));
    let (status, found) = paths(&place.program(&entries));
    assert_eq!((status, found.len()), (Some(0), 1500 + 2));
}

#[test]
fn a_chain_of_ten_thousand_is_followed_and_printed_in_bounds() {
    let Some(place) = Place::new("deep") else { return };
    for index in 0..10_000 {
        let next = format!("lib{}.so", index + 1);
        let needs: &[(u64, &[u8])] = if index < 9_999 { &[(NEEDED, next.as_bytes())] } else { &[] };
        place.write(&format!("lib{index}.so"), &elf(None, needs));
    }
    let program = place.program(&[(NEEDED, b"lib0.so"), (RPATH, &place.runpath())]);
    let (status, found) = paths(&program);
    assert_eq!((status, found.len()), (Some(0), 10_000 + 2));
    let (status, text) = tree(&[program.as_os_str()]);
    assert!(status == Some(0) && text.len() < 10_000_000, "{status:?}, {} bytes", text.len());
    assert_eq!(text.lines().count(), 10_000 + 2);
}

#[test]
fn more_objects_than_any_program_has_are_refused() {
    let Some(place) = Place::new("objects") else { return };
    // Each of 20,000 needs the next two hundred.
    let runpath = place.runpath();
    for first in 0..300 {
        let names: Vec<String> =
            (0..200).map(|index| format!("lib{}.so", (first * 67 + index) % 20_000)).collect();
        let mut entries: Vec<(u64, &[u8])> = names.iter().map(|name| (NEEDED, name.as_bytes())).collect();
        entries.push((RUNPATH, &runpath));
        place.write(&format!("lib{first}.so"), &elf(None, &entries));
    }
    for index in 300..20_000 {
        place.write(&format!("lib{index}.so"), &elf(None, &[]));
    }
    let (status, text) = tree(&[place.program(&[(NEEDED, b"lib0.so"), (RUNPATH, &runpath)]).as_os_str()]);
    assert!(status == Some(1) && text.contains("more than"), "{status:?}: {}", &text[..text.len().min(500)]);
}

#[test]
fn lists_of_directories_for_lists_of_names_are_refused() {
    let Some(place) = Place::new("look-ups") else { return };
    let names: Vec<String> = (0..4000).map(|index| format!("lib{index}.so")).collect();
    let list: Vec<String> = (0..1000).map(|index| format!("/{index}")).collect();
    let list = list.join(":");
    let mut entries: Vec<(u64, &[u8])> = names.iter().map(|name| (NEEDED, name.as_bytes())).collect();
    entries.push((RUNPATH, &list.as_bytes()[..4000]));
    let (status, text) = tree(&[place.program(&entries).as_os_str()]);
    assert!(status == Some(1) && text.contains("would be looked for in more than"), "{text}");
}

#[test]
fn lists_of_nothing_but_origins_do_not_fill_the_memory() {
    let Some(place) = Place::new("origins") else { return };
    let deep = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/");
    let list: Vec<String> = (0..250).map(|index| format!("$ORIGIN/$ORIGIN/{index}")).collect();
    let list = list.join(":");
    let directory = format!("{}/{deep}", place.0.display());
    for index in 0..2000 {
        let next = format!("{directory}/lib{}.so", index + 1);
        let entries: &[(u64, &[u8])] =
            &[(NEEDED, next.as_bytes()), (NEEDED, b"libnone.so"), (RUNPATH, list.as_bytes())];
        place.write(&format!("{deep}/lib{index}.so"), &elf(None, entries));
    }
    let first = format!("{directory}/lib0.so");
    let (status, _) = tree(&["--paths".as_ref(), place.program(&[(NEEDED, first.as_bytes())]).as_os_str()]);
    assert_eq!(status, Some(1));
}

#[test]
fn tables_without_end_are_refused() {
    let Some(place) = Place::new("tables") else { return };
    let refused = |bytes: &[u8], words: &str| {
        let (status, text) = tree(&[place.write("program", bytes).as_os_str()]);
        assert!(status == Some(1) && text.contains(words), "{words}: {text}");
    };
    let name: &[u8] = b"libc.so.6";
    refused(&elf(Some(LOADER), &vec![(NEEDED, name); 8193]), "asks for more than 8192 libraries");
    refused(&elf(Some(LOADER), &vec![(0x1234, name); 70_000]), "does not end");
    refused(&elf(Some(LOADER), &[(NEEDED, &[b'a'; 5000])]), "longer than a path may be");
    let mut headers = elf(Some(LOADER), &[(NEEDED, name)]);
    headers[56..58].copy_from_slice(&[0xfe, 0xff]);
    headers.resize(65_534 * 56 + 64, 0);
    refused(&headers, "more program headers than the kernel runs");
    headers[56..58].copy_from_slice(&[0xff, 0xff]);
    refused(&headers, "program headers are damaged");
    let whole = elf(Some(LOADER), &[(NEEDED, name)]);
    for length in (0..whole.len()).step_by(7) {
        let (status, text) = tree(&[place.write("program", &whole[..length]).as_os_str()]);
        assert_eq!(status, Some(1), "{length}: {text}");
    }
}

#[test]
fn a_sparse_file_of_a_tebibyte_is_read_where_it_matters() {
    let Some(place) = Place::new("sparse") else { return };
    let path = place.write("libbig.so", &elf(None, &[(SONAME, b"libbig.so")]));
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let there = file.set_len(1 << 40).is_ok();
    if !need::need("a file system with files of a tebibyte", there, &["uml", "6.1", "6.12"]) {
        return;
    }
    file.seek(SeekFrom::Start((1 << 40) - 4)).unwrap();
    file.write_all(b"end").unwrap();
    let (status, found) = paths(&place.program(&[(NEEDED, b"libbig.so"), (RUNPATH, &place.runpath())]));
    assert!(status == Some(0) && found.iter().any(|path| path.ends_with("/libbig.so")), "{found:?}");
}

#[test]
fn what_is_no_regular_file_is_named_and_not_waited_for() {
    let Some(place) = Place::new("kinds") else { return };
    nix::unistd::mkfifo(&place.0.join("libfifo.so"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(place.0.join("libsocket.so")).unwrap();
    symlink("/dev/zero", place.0.join("libdevice.so")).unwrap();
    std::fs::create_dir(place.0.join("libdirectory.so")).unwrap();
    for (name, kind) in [("fifo", "a FIFO"), ("device", "a device"), ("directory", "a directory")] {
        let need = format!("lib{name}.so");
        let program = place.program(&[(NEEDED, need.as_bytes()), (RUNPATH, &place.runpath())]);
        let (status, text) = tree(&[program.as_os_str()]);
        assert!(status == Some(1) && text.contains(&format!("it is {kind}")), "{kind}: {text}");
    }
    // A socket cannot be opened: glibc gives up that list.
    let program = place.program(&[(NEEDED, b"libsocket.so"), (RUNPATH, &place.runpath())]);
    assert_eq!(tree(&[program.as_os_str()]).0, Some(1));
    for name in ["libfifo.so", "libsocket.so", "libdevice.so", "libdirectory.so"] {
        assert_eq!(tree(&[place.0.join(name).as_os_str()]).0, Some(1), "{name} as a program");
    }
}

#[test]
fn ten_thousand_links_end_where_the_kernel_ends() {
    let Some(place) = Place::new("links") else { return };
    place.write("l0", &elf(None, &[]));
    for index in 1..10_000 {
        symlink(format!("l{}", index - 1), place.0.join(format!("l{index}"))).unwrap();
    }
    symlink("l39", place.0.join("libnear.so")).unwrap();
    symlink("l9999", place.0.join("libfar.so")).unwrap();
    let near = place.program(&[(NEEDED, b"libnear.so"), (RUNPATH, &place.runpath())]);
    assert_eq!(paths(&near).0, Some(0), "forty links are followed");
    let far = place.program(&[(NEEDED, b"libfar.so"), (RUNPATH, &place.runpath())]);
    let (status, text) = tree(&[far.as_os_str()]);
    assert!(status == Some(1) && text.contains("libfar.so => NOT FOUND"), "{text}");
    assert_eq!(tree(&[place.0.join("l9999").as_os_str()]).0, Some(1));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error_at_most() {
    let Some(place) = Place::new("changes") else { return };
    let one = elf(Some(LOADER), &[(NEEDED, b"liba.so"), (RUNPATH, &place.runpath())]);
    let other = elf(Some(LOADER), &[(SONAME, b"x"), (NEEDED, b"libbbbbbb.so"), (RPATH, b"$ORIGIN")]);
    let path = place.write("program", &one);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // In place, with a moment in which it is empty.
                for bytes in [&one[..], &other, &other[..other.len() / 2]] {
                    std::fs::write(&path, bytes).unwrap();
                }
            }
        });
        let root = SourceRoot::host().unwrap();
        for _ in 0..2000 {
            match Search::new(&root, None).resolve(&path, &[]) {
                Ok(_) | Err(SearchError::Malformed(_) | SearchError::Interpreter { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn no_name_reaches_the_terminal_raw() {
    let Some(place) = Place::new("names") else { return };
    let name = b"lib\x1b[2J\n\xc2\x9b\xff.so";
    place.write("plain", b"");
    std::fs::write(place.0.join(OsString::from_vec(name.to_vec())), elf(None, &[])).unwrap();
    let program = place.program(&[(NEEDED, name), (NEEDED, b"lib\x07none.so"), (RUNPATH, &place.runpath())]);
    for flags in [&[][..], &["--json"], &["--paths"]] {
        let mut arguments: Vec<&std::ffi::OsStr> = flags.iter().map(|flag| (*flag).as_ref()).collect();
        arguments.push(program.as_os_str());
        let (_, text) = tree(&arguments);
        assert!(text.contains("x1b[2J"), "{text}");
        let raw = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{flags:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with(['\u{9b}', '.'])), "{text}");
    }
}

#[test]
fn scripts_that_run_each_other_end() {
    let Some(place) = Place::new("scripts") else { return };
    let first = place.0.join("s0");
    for index in 0..8 {
        let line = format!("#!{}/s{}\n", place.0.display(), (index + 1) % 8);
        place.write(&format!("s{index}"), line.as_bytes());
    }
    let (status, text) = tree(&[first.as_os_str()]);
    assert!(status == Some(1) && text.contains("more than 5 deep"), "{text}");
}

#[test]
fn a_script_whose_arguments_are_cut_off_runs_as_the_kernel_runs_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("jailmk-hostile-line-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, line, runs) in [
        ("arguments", format!("#!/bin/echo {}", "a".repeat(300)), true),
        ("name", format!("#!/bin/{}echo", "./".repeat(150)), false),
    ] {
        let path = directory.join(name);
        std::fs::write(&path, line + "\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let kernel = Command::new(&path).output();
        assert_eq!(kernel.is_ok(), runs, "{name}: {kernel:?}");
        let (status, text) = tree(&[path.as_os_str()]);
        assert_eq!(status == Some(0), runs, "{name}: {text}");
    }
    std::fs::remove_dir_all(directory).unwrap();
}
