//! Aligned columns, as kubectl prints them.
//!
//! In: rows of cells. Out: lines. Never: a decision about what is worth a column.

use std::io::{self, Write};

use super::{
    Text,
    output::{Mood, visible},
};

/// Space between columns.
const GAP: usize = 3;

/// One cell of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    mood: Option<Mood>,
}

impl Cell {
    /// A cell with a colour.
    pub fn with_mood(text: impl Into<String>, mood: Mood) -> Self {
        Self { mood: Some(mood), ..Self::from(text) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    /// An empty cell shows `-`, so that programs too can tell columns apart.
    fn from(text: T) -> Self {
        let text = text.into();
        Self { text: if text.is_empty() { "-".to_owned() } else { visible(&text) }, mood: None }
    }
}

/// Rows under a head, each followed by its notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<Row<N>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row<const N: usize> {
    cells: [Cell; N],
    notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    mood: Mood,
    word: &'static str,
    text: String,
}

impl<const N: usize> Table<N> {
    /// A table with these column names, in capitals by custom.
    #[must_use]
    pub fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(Row { cells, notes: Vec::new() });
    }

    /// Adds a line below the last row, outside of the columns: a coloured word, then text.
    pub fn note(&mut self, mood: Mood, word: &'static str, text: &str) {
        if let Some(row) = self.rows.last_mut() {
            row.notes.push(Note { mood, word, text: visible(text) });
        }
    }

    /// Writes all rows.
    ///
    /// # Errors
    /// When the writer has one.
    pub fn write(&self, out: &mut Text<'_>) -> io::Result<()> {
        let widths: [usize; N] = std::array::from_fn(|i| {
            let cells = self.rows.iter().map(|row| row.cells[i].text.chars().count());
            cells.max().unwrap_or(0).max(self.head[i].len())
        });
        write_cells(&self.head.map(Cell::from), &widths, out)?;
        for row in &self.rows {
            write_cells(&row.cells, &widths, out)?;
            for note in &row.notes {
                writeln!(out, "  {}: {}", out.paint.mood(note.mood, note.word), note.text)?;
            }
        }
        Ok(())
    }
}

fn write_cells<const N: usize>(cells: &[Cell; N], widths: &[usize; N], out: &mut Text<'_>) -> io::Result<()> {
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let shown = cell.mood.map_or_else(|| cell.text.clone(), |m| out.paint.mood(m, &cell.text));
        // The last column is not padded, so that no line ends in spaces.
        let padding = if i + 1 == N { 0 } else { width - cell.text.chars().count() + GAP };
        write!(out, "{shown}{:padding$}", "")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, Output, output::Shared};

    #[test]
    fn columns_are_aligned_and_notes_follow_their_row() {
        let mut table = Table::new(["NAME", "RESULT"]);
        table.row(["a-long-name".into(), Cell::with_mood("accepted", Mood::Good)]);
        table.row(["ü".into(), "".into()]);
        table.note(Mood::Bad, "error", "no\nhosts");
        let shared = Shared::default();
        let mut output = Output::to(shared.clone(), Format::Text);
        output.print(&(), |(), out| table.write(out)).expect("written");
        assert_eq!(
            shared.text(),
            "NAME          RESULT\n\
             a-long-name   accepted\n\
             ü             -\n  \
             error: no\\nhosts\n"
        );
    }
}
