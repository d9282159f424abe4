//! The report as pictures.
//!
//! In: a report. Out: SVG files. Never: an axis that does not begin at zero.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use tests::load::Kind;

use super::report::{Arm, Report};
use super::series::Series;
use super::table;

const WIDTH: u32 = 900;
const ROW: u32 = 26;
const GRAY: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const OURS: RGBColor = RGBColor(0x2f, 0x6f, 0xb0);
const OTHERS: RGBColor = RGBColor(0xc7, 0x6b, 0x29);

/// A bar with its interval.
#[derive(Clone)]
struct Bar {
    label: String,
    value: Series,
    color: RGBColor,
}

/// Writes `ratios.svg` and `hooks.svg`, as far as there is something to show.
pub(super) fn write(report: &Report, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let kinds = [Kind::Crr, Kind::Rr, Kind::Stream, Kind::Udp];
    let ratios = kinds.map(|kind| {
        let rows = report.traffic.iter().filter(|row| row.kind == kind && row.arm != Arm::Direct);
        let bars = rows.map(|row| bar(row.arm, String::new(), &row.ratio)).collect::<Vec<_>>();
        let of = if kind == Kind::Stream { "throughput to direct" } else { "p50 to direct" };
        (format!("{} ({of})", table::title(kind)), bars)
    });
    let hooks = report.hooks.iter().map(|hook| {
        let among = hook.frontends.filter(|_| hook.arm == Arm::Hit);
        bar(hook.arm, among.map_or_else(String::new, |count| format!(", {count} frontends")), &hook.ns)
    });
    let hooks = vec![("connect4: nanoseconds for one run".to_owned(), hooks.collect())];
    for (name, mut panels) in [("ratios.svg", ratios.to_vec()), ("hooks.svg", hooks)] {
        panels.retain(|(_, bars)| !bars.is_empty());
        if !panels.is_empty() {
            let path = folder.join(name);
            draw(&path, &panels).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
            written.push(path);
        }
    }
    Ok(written)
}

type Panel = (String, Vec<Bar>);

fn bar(arm: Arm, more: String, value: &Series) -> Bar {
    let color = match arm {
        Arm::Direct | Arm::Again | Arm::Empty => GRAY,
        Arm::NotEnrolled | Arm::Miss | Arm::Hit | Arm::Waypoint => OURS,
        Arm::Nftables | Arm::Envoy => OTHERS,
    };
    Bar { label: arm.label().to_owned() + &more, value: value.clone(), color }
}

fn draw(path: &Path, panels: &[Panel]) -> Result<(), Box<dyn std::error::Error>> {
    let heights: Vec<u32> = panels.iter().map(|(_, bars)| 78 + ROW * bars.len() as u32).collect();
    let root = SVGBackend::new(path, (WIDTH, heights.iter().sum())).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.clone();
    for (panel, height) in panels.iter().zip(heights) {
        let (area, below) = rest.split_vertically(height);
        draw_panel(&area, panel)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    (title, bars): &Panel,
) -> Result<(), Box<dyn std::error::Error>> {
    let most = bars.iter().map(|bar| bar.value.high).fold(0.0, f64::max) * 1.12;
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(30)
        .caption(title, ("sans-serif", 16))
        .x_label_area_size(24)
        .y_label_area_size(190)
        .build_cartesian_2d(0.0..most, 0.0..rows)?;
    let number = |value: &f64| if most > 50.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().x_labels(10).x_label_formatter(&number);
    mesh.light_line_style(TRANSPARENT).draw()?;
    for (row, bar) in bars.iter().enumerate() {
        let middle = rows - row as f64 - 0.5;
        let value = &bar.value;
        let rectangle =
            Rectangle::new([(0.0, middle - 0.32), (value.median, middle + 0.32)], bar.color.filled());
        let interval = PathElement::new([(value.low, middle), (value.high, middle)], BLACK.stroke_width(2));
        chart.draw_series([rectangle])?;
        chart.draw_series([interval])?;
        let y = chart.backend_coord(&(0.0, middle)).1;
        let (left, top) = area.get_base_pixel();
        area.draw(&Text::new(bar.label.clone(), (16, y - top - 7), ("sans-serif", 14)))?;
        let digits = if value.median < 50.0 { 3 } else { 0 };
        let end = chart.backend_coord(&(value.high, middle)).0;
        let told = format!("{:.digits$}", value.median);
        area.draw(&Text::new(told, (end - left + 8, y - top - 7), ("sans-serif", 13)))?;
    }
    Ok(())
}
