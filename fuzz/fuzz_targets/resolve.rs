//! A small tree whose four objects, cache and configuration come from the input: a whole resolution ends,
//! within bounds, alike each time, and never leaves the tree.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Environment, Outcome, Search};
use jailmk::path::HostPath;
use libfuzzer_sys::fuzz_target;

/// What an object may say; the input picks.
const NAMES: [&str; 16] = [
    "liba.so", "libb.so", "libc.so.6", "libd.so", "/o/liba.so", "$ORIGIN/libb.so", "/o", "$ORIGIN",
    "${ORIGIN}/../o:/lib:", "/o/$PLATFORM:$LIB", "", ":", "..", "../../../../etc/passwd", "/", "\u{1b}x",
];
const TAGS: [u64; 10] = [1, 1, 14, 15, 29, 0x7fff_fffd, 0x7fff_ffff, 0x6fff_fefc, 0x6fff_fffb, 0x6fff_fffe];
const INTERPRETERS: [&str; 3] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1", ""];
const FILES: [&str; 5] =
    ["bin/program", "o/liba.so", "o/libb.so", "lib64/ld-linux-x86-64.so.2", "lib/ld-musl-x86_64.so.1"];

/// An object of one segment: an interpreter, then pairs of a tag and a name, then patches.
fn object(input: &mut impl Iterator<Item = u8>, interpreter: &str) -> Vec<u8> {
    let mut next = || input.next().unwrap_or(0);
    let mut strings = vec![0];
    let start = 64 + 56 * 3u64;
    let mut headers = Vec::new();
    if !interpreter.is_empty() {
        headers.push((3u32, start + 1, interpreter.len() as u64 + 1));
        strings.extend(interpreter.bytes().chain([0]));
    }
    let mut table = vec![(5, start)];
    for _ in 0..next() % 8 {
        let (tag, name) = (TAGS[usize::from(next()) % TAGS.len()], NAMES[usize::from(next()) % NAMES.len()]);
        table.push((tag, strings.len() as u64));
        strings.extend(name.bytes().chain([0]));
    }
    table.push((0, 0));
    strings.resize(strings.len().next_multiple_of(8), 0);
    let at = start + strings.len() as u64;
    headers.extend([(1, 0, at + 16 * table.len() as u64), (2, at, 16 * table.len() as u64)]);
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
    for _ in 0..next() % 4 {
        let at = usize::from(u16::from_le_bytes([next(), next()])) % out.len();
        out[at] = next();
    }
    out
}

fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| std::env::temp_dir().join(format!("jailmk-fuzz-{}", std::process::id())))
}

fuzz_target!(|data: &[u8]| {
    let mut input = data.iter().copied();
    let kind = input.next().unwrap_or(0);
    for file in FILES {
        let interpreter = if file == FILES[0] { INTERPRETERS[usize::from(kind) % 3] } else { "" };
        let path = place().join(file);
        std::fs::create_dir_all(path.parent().expect("every file has a parent")).expect("a place to write");
        std::fs::write(path, object(&mut input, interpreter)).expect("a place to write");
    }
    let rest: Vec<u8> = input.collect();
    let etc = place().join("etc");
    std::fs::create_dir_all(&etc).expect("a place to write");
    // A cache, or a configuration and no cache.
    let _ = std::fs::remove_file(etc.join("ld.so.cache"));
    std::fs::write(etc.join(if kind & 4 == 0 { "ld.so.cache" } else { "ld.so.conf" }), &rest)
        .expect("a place to write");
    let environment =
        Environment { library_path: (kind & 8 != 0).then(|| "/o;$ORIGIN".into()), preload: None };
    let look = || {
        let root = SourceRoot::open(HostPath::absolute(place()).expect("absolute")).expect("it was made");
        let mut search = Search::new(&root, None).with_environment(environment.clone());
        search.resolve(Path::new("/bin/program"), &["libd.so".into()]).map(|found| {
            for edge in &found.edges {
                if let Outcome::Found { path: Some(path), .. } = &edge.outcome {
                    assert!(path.is_absolute());
                    assert!(root.resolve(path).is_ok(), "what was found is there");
                }
            }
            found.edges
        })
    };
    assert_eq!(look(), look());
});
