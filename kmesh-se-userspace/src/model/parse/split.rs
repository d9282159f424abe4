//! One file of several YAML documents, cut where kubectl cuts it.
//!
//! In: the bytes of a file. Out: the documents that are not empty, each with its first line.
//! Never: YAML parsing, so that a broken document cannot take the next one with it.

use super::Document;

/// Cuts `input` before each line that starts a document (`---`) and after each that ends one (`...`).
/// Documents of comments and blank lines only are left out.
pub(super) fn documents(input: &[u8]) -> Vec<Document<'_>> {
    let mut chunks = Vec::new();
    let mut start = (1, 0);
    let mut line = 1;
    let mut offset = 0;
    // `%YAML` and `%TAG` lines belong to the document after the `---` that follows them.
    let (mut directives, mut content) = (false, false);
    for bytes in input.split_inclusive(|b| *b == b'\n') {
        let after = (line + 1, offset + bytes.len());
        match marker(bytes) {
            Some(Marker::Start) => {
                if content || !directives {
                    push(&mut chunks, start, &input[start.1..offset]);
                    start = (line, offset);
                }
                (directives, content) = (false, true);
            }
            Some(Marker::End) => {
                push(&mut chunks, start, &input[start.1..offset]);
                start = after;
                (directives, content) = (false, false);
            }
            None if bytes.starts_with(b"%") && !content => directives = true,
            None => content |= !is_blank(bytes),
        }
        (line, offset) = after;
    }
    push(&mut chunks, start, &input[start.1..]);
    chunks
}

enum Marker {
    Start,
    End,
}

fn marker(line: &[u8]) -> Option<Marker> {
    let rest = line.get(3..)?;
    if !rest.first().is_none_or(u8::is_ascii_whitespace) {
        return None;
    }
    match &line[..3] {
        b"---" => Some(Marker::Start),
        b"..." => Some(Marker::End),
        _ => None,
    }
}

fn push<'a>(chunks: &mut Vec<Document<'a>>, (line, _): (usize, usize), bytes: &'a [u8]) {
    let bytes_without_mark = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if !is_empty(bytes_without_mark) {
        chunks.push(Document { line, bytes: bytes_without_mark });
    }
}

fn is_empty(bytes: &[u8]) -> bool {
    let content = bytes.strip_prefix(b"---").unwrap_or(bytes);
    content.split(|b| *b == b'\n').all(is_blank)
}

fn is_blank(line: &[u8]) -> bool {
    let text = line.trim_ascii();
    text.is_empty() || text.starts_with(b"#")
}
