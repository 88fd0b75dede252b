//! Dynamic string tokens: `$ORIGIN`, `$LIB`, `$PLATFORM`, with and without braces.
//!
//! Source: ld.so(8), glibc's elf/dl-load.c (`is_dst`, `_dl_dst_substitute`), musl's `fixup_rpath`.

/// What the tokens stand for where they are found.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// The directory of the object.
    pub origin: Option<&'a [u8]>,
    /// `$LIB`
    pub lib: Option<&'a [u8]>,
    /// Every `$PLATFORM` that a processor may give, best first.
    pub platforms: &'a [Vec<u8>],
}

/// Replaces the tokens as glibc does. More than one text where `$PLATFORM` depends on the processor;
/// none where a token has no value.
pub fn expand(text: &[u8], tokens: Tokens<'_>) -> Vec<Vec<u8>> {
    if !text.contains(&b'$') {
        return vec![text.to_vec()];
    }
    let mut out = vec![Vec::with_capacity(text.len())];
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'$' {
            if let Some(length) = token(after, b"ORIGIN") {
                let Some(origin) = tokens.origin else { return Vec::new() };
                out.iter_mut().for_each(|text| text.extend(origin));
                rest = &after[length..];
                continue;
            }
            if let Some(length) = token(after, b"LIB") {
                let Some(lib) = tokens.lib else { return Vec::new() };
                out.iter_mut().for_each(|text| text.extend(lib));
                rest = &after[length..];
                continue;
            }
            if let Some(length) = token(after, b"PLATFORM") {
                // One processor gives one value, however often it is asked.
                out = tokens
                    .platforms
                    .iter()
                    .flat_map(|platform| {
                        let tokens = Tokens { platforms: std::slice::from_ref(platform), ..tokens };
                        let tail = expand(&after[length..], tokens);
                        let head = [&out[0], platform].map(|part| part.as_slice()).concat();
                        tail.into_iter().map(move |tail| [head.as_slice(), &tail].concat())
                    })
                    .collect();
                return out;
            }
        }
        out.iter_mut().for_each(|text| text.push(byte));
        rest = after;
    }
    out
}

/// The length of the token `name` or `{name}` at the front of `text`.
fn token(text: &[u8], name: &[u8]) -> Option<usize> {
    if let Some(inner) = text.strip_prefix(b"{") {
        return (inner.starts_with(name) && inner.get(name.len()) == Some(&b'}')).then_some(name.len() + 2);
    }
    let follows = text.strip_prefix(name)?.first();
    let continues = follows.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    (!continues).then_some(name.len())
}

/// Replaces `$ORIGIN` as musl does; any other `$` voids the text.
pub fn expand_musl(text: &[u8], origin: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
        out.extend(&rest[..at]);
        rest = rest[at..].strip_prefix(b"$ORIGIN").or_else(|| rest[at..].strip_prefix(b"${ORIGIN}"))?;
        out.extend(origin);
    }
    out.extend(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let platforms = [b"haswell".to_vec(), b"x86_64".to_vec()];
        let tokens = Tokens { origin: Some(b"/o"), lib: Some(b"lib64"), platforms: &platforms };
        expand(text.as_bytes(), tokens).into_iter().map(|text| String::from_utf8(text).unwrap()).collect()
    }

    #[test]
    fn tokens_are_replaced_with_and_without_braces() {
        assert_eq!(all("$ORIGIN/../${LIB}:$LIB"), ["/o/../lib64:lib64"]);
    }

    #[test]
    fn a_longer_identifier_is_no_token() {
        assert_eq!(all("$ORIGINX/${ORIGIN/$ORIGIN_/$OR"), ["$ORIGINX/${ORIGIN/$ORIGIN_/$OR"]);
    }

    #[test]
    fn the_platform_has_as_many_values_as_processors_give() {
        assert_eq!(all("a/$PLATFORM/$PLATFORM"), ["a/haswell/haswell", "a/x86_64/x86_64"]);
    }

    #[test]
    fn a_token_without_a_value_voids_the_text() {
        let tokens = Tokens { origin: None, lib: None, platforms: &[] };
        assert!(expand(b"$ORIGIN/x", tokens).is_empty());
    }

    #[test]
    fn musl_knows_the_origin_only_and_has_no_identifiers() {
        assert_eq!(expand_musl(b"$ORIGINX:${ORIGIN}", b"/o").unwrap(), b"/oX:/o");
        assert_eq!(expand_musl(b"$LIB", b"/o"), None);
    }
}
