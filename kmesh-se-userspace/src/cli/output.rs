//! Printing of answers.
//!
//! In: a value that can be serialised, and a way to show it as text. Out: text, JSON or YAML on a writer.
//! Never: a panic or an error because the reader has gone away.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: aligned columns.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Where answers go.
pub struct Output {
    format: Format,
    paint: Paint,
    writer: Box<dyn Write + Send>,
    /// Nobody reads any more; further text is dropped.
    closed: bool,
}

/// A writer of text for people.
pub struct Text<'a> {
    writer: &'a mut dyn Write,
    /// Colours, if the reader sees them.
    pub paint: Paint,
}

/// Colours for text, on a terminal only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paint {
    /// Text as it is.
    #[default]
    Plain,
    /// Text with the terminal's colour codes.
    Colour,
}

/// What a piece of text means, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Accepted, healthy.
    Good,
    /// Degraded, doubtful.
    Warning,
    /// Rejected, failed.
    Bad,
}

impl Paint {
    /// `text` in the colour of `mood`.
    pub fn mood(self, mood: Mood, text: impl Display) -> String {
        let code = match (self, mood) {
            (Self::Plain, _) => return text.to_string(),
            (Self::Colour, Mood::Good) => 32,
            (Self::Colour, Mood::Warning) => 33,
            (Self::Colour, Mood::Bad) => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Colours when `stream` is a terminal and `NO_COLOR` is not set.
    fn for_stream(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        if stream.is_terminal() && !unwanted { Self::Colour } else { Self::Plain }
    }
}

impl Output {
    /// Prints to stdout.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        let stdout = io::stdout();
        Self { format, paint: Paint::for_stream(&stdout), writer: Box::new(stdout), closed: false }
    }

    /// Prints to `writer`, without colour.
    #[must_use]
    pub fn to(writer: impl Write + Send + 'static, format: Format) -> Self {
        Self { format, paint: Paint::Plain, writer: Box::new(writer), closed: false }
    }

    /// How this prints.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Prints `value`; `text` shows it to people.
    ///
    /// # Errors
    /// When it cannot be written for another reason than that the reader has gone away.
    pub fn print<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T, &mut Text<'_>) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        match self.format {
            Format::Text => text(value, &mut Text { writer: &mut bytes, paint: self.paint })?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut bytes, value).context("this answer cannot be JSON")?;
                bytes.push(b'\n');
            }
            Format::Yaml => {
                let yaml = serde_saphyr::to_string(value).context("this answer cannot be YAML")?;
                bytes.extend(yaml.as_bytes());
            }
        }
        self.write(&bytes)
    }

    /// Prints one value of many, each on a line, or as a YAML document; says whether somebody still reads.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn line<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T, &mut Text<'_>) -> io::Result<()>,
    ) -> anyhow::Result<bool> {
        match self.format {
            Format::Text => self.print(value, text)?,
            Format::Json => {
                let mut bytes = serde_json::to_vec(value).context("this answer cannot be JSON")?;
                bytes.push(b'\n');
                self.write(&bytes)?;
            }
            Format::Yaml => {
                self.write(b"---\n")?;
                self.print(value, text)?;
            }
        }
        Ok(!self.closed)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.closed {
            return Ok(());
        }
        match self.writer.write_all(bytes).and_then(|()| self.writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            result => result.context("cannot write the answer to stdout"),
        }
    }
}

impl Write for Text<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// `text` with what could move the cursor or colour the terminal made visible; names and messages may come
/// from files of strangers.
#[must_use]
pub fn visible(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A writer that tests can look into.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Shared {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }
}

#[cfg(test)]
impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader has gone away.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error_but_a_full_disk_is() {
        let mut output = Output::to(Closed, Format::Json);
        output.print(&1, |_, _| Ok(())).expect("no error");
        output.print(&1, |_, _| Ok(())).expect("no error");
        let error = Output::to(Full, Format::Yaml).print(&1, |_, _| Ok(())).expect_err("an error");
        assert!(format!("{error:#}").contains("stdout"), "{error:#}");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(visible("a\x1b[31m\u{202e}é\n"), "a\\u{1b}[31m\\u{202e}é\\n");
    }

    #[test]
    fn colour_codes_are_only_written_when_colours_are_wanted() {
        assert_eq!(Paint::Plain.mood(Mood::Bad, "no"), "no");
        assert_eq!(Paint::Colour.mood(Mood::Bad, "no"), "\x1b[31mno\x1b[0m");
    }
}
