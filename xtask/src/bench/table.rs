//! The report as tables.
//!
//! In: a report. Out: rows of cells, aligned for a terminal or as Markdown. Never: a number that the report
//! does not hold.

use ::tests::load::Kind;

use super::report::Report;
use super::series::Series;
use super::verdict;

/// A table with its title; the first column is text, the others are numbers.
pub(super) struct Table {
    pub(super) title: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// What a kind of traffic is called in titles.
pub(super) fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Crr => "CRR: connect, one byte there and back, close",
        Kind::Rr => "RR: one byte there and back on an open connection",
        Kind::Stream => "STREAM: bulk on one connection",
        Kind::Udp => "UDP: one byte there and back, unconnected socket",
    }
}

/// All tables of a report.
pub(super) fn tables(report: &Report) -> Vec<Table> {
    let kinds = [Kind::Crr, Kind::Rr, Kind::Stream, Kind::Udp];
    let mut tables: Vec<_> = kinds.into_iter().filter_map(|kind| traffic(report, kind)).collect();
    tables.extend(hooks(report));
    tables.extend(scale(report));
    tables.extend(targets(report));
    tables
}

fn traffic(report: &Report, kind: Kind) -> Option<Table> {
    let rows: Vec<_> = report.traffic.iter().filter(|row| row.kind == kind).collect();
    let bulk = kind == Kind::Stream;
    let head = if bulk {
        vec!["", "Gbit/s", "to direct", "95 % interval"]
    } else {
        vec!["", "p50 µs", "p90 µs", "p99 µs", "per second", "p50 to direct", "95 % interval"]
    };
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.arm.label().to_owned()];
        if bulk {
            cells.push(format!("{:.2}", row.per_second.median / 1e9));
        } else {
            cells.extend(
                [&row.p50_us, &row.p90_us, &row.p99_us].map(|series| format!("{:.1}", series.median)),
            );
            cells.push(format!("{:.0}", row.per_second.median));
        }
        cells.extend(ratio(&row.ratio, 3));
        if row.lost > 0 {
            cells[0] += &format!(" ({} lost)", row.lost);
        }
        cells
    });
    let table = Table { title: title(kind).to_owned(), head, rows: cells.collect() };
    (!table.rows.is_empty()).then_some(table)
}

fn ratio(series: &Series, digits: usize) -> [String; 2] {
    [format!("{:.digits$}", series.median), format!("{:.digits$}–{:.digits$}", series.low, series.high)]
}

fn hooks(report: &Report) -> Option<Table> {
    let cells = report.hooks.iter().map(|hook| {
        let frontends = hook.frontends.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let mut cells = vec![hook.arm.label().to_owned(), frontends, format!("{:.0}", hook.ns.median)];
        cells.extend(ratio(&hook.ratio, 2));
        cells
    });
    let rows: Vec<_> = cells.collect();
    let head = vec!["", "frontends", "ns a run", "to empty", "95 % interval"];
    (!rows.is_empty()).then(|| Table {
        title: "connect4: one run, as the kernel counts".to_owned(),
        head,
        rows,
    })
}

fn scale(report: &Report) -> Option<Table> {
    let cells = report.scale.iter().map(|row| {
        let mut cells = vec![format!("{} entries", row.entries), row.frontends.to_string()];
        cells.push(format!("{:.2}", row.programmed_secs));
        cells.push(format!("{:.1}", row.rss_bytes as f64 / f64::from(1 << 20)));
        cells.extend([50, 99].map(|percent| format!("{:.1}", row.change(percent))));
        cells
    });
    let rows: Vec<_> = cells.collect();
    let head = vec!["", "frontends", "programmed s", "RSS MiB", "change p50 ms", "change p99 ms"];
    (!rows.is_empty()).then(|| Table { title: "The agent with many entries".to_owned(), head, rows })
}

fn targets(report: &Report) -> Option<Table> {
    let lines = verdict::lines(report).into_iter();
    let rows: Vec<_> = lines
        .map(|line| vec![line.what, line.target, line.measured, line.verdict.word().to_owned()])
        .collect();
    let head = vec!["", "target", "measured", ""];
    (!rows.is_empty()).then(|| Table { title: "Targets".to_owned(), head, rows })
}

impl Table {
    /// With columns that line up.
    fn text(&self) -> String {
        let head: Vec<_> = self.head.iter().map(|cell| (*cell).to_owned()).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let length = |cell: &String| cell.chars().count();
        let width =
            |column: usize| lines().filter_map(|line| line.get(column)).map(length).max().unwrap_or(0);
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let line = |cells: &Vec<String>| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") }
            });
            cells.collect::<String>().trim_end().to_owned() + "\n"
        };
        format!("{}\n{}", self.title, lines().map(line).collect::<String>())
    }

    /// As Markdown has them.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<_> = self.head.iter().map(|cell| (*cell).to_owned()).collect();
        let rule = std::iter::once("---").chain(self.head.iter().skip(1).map(|_| "---:"));
        let rule: Vec<_> = rule.map(str::to_owned).collect();
        let rows = self.rows.iter().map(|row| line(row));
        format!("{}{}{}", line(&head), line(&rule).replace(' ', ""), rows.collect::<String>())
    }
}

/// The whole report for a terminal.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for table in tables(report) {
        text += &format!("\n{}", table.text());
    }
    for what in &report.skipped {
        text += &format!("\nnot measured: {what}");
    }
    if report.settings.quick {
        text += "\nA --quick run: nothing follows from its numbers.";
    }
    let [before, after] = report.load_average;
    let cpus = report.machine.cpus;
    text + &format!(
        "\n{:.0} s, {} rounds; load average {before} before, {after} after, on {cpus} CPUs\n",
        report.took_secs, report.settings.rounds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters_and_not_by_bytes() {
        let rows = vec![vec!["a".to_owned(), "1–2".to_owned()], vec!["long".to_owned(), "10".to_owned()]];
        let table = Table { title: "T".to_owned(), head: vec!["", "µs"], rows };
        assert_eq!(table.text(), "T\n         µs\n  a     1–2\n  long   10\n");
        assert_eq!(table.markdown(), "|  | µs |\n|---|---:|\n| a | 1–2 |\n| long | 10 |\n");
    }
}
