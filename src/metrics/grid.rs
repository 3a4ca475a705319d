//! One series for every value of one or two closed labels, made once and then found by its number.
//!
//! A look-up by label text costs a hash and a lock, for every message; an array costs neither.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result,
    core::{MetricVec, MetricVecBuilder},
};

/// A closed label: its name, and its values in the order of their numbers.
pub(crate) struct Label<'a>(pub(crate) &'static str, pub(crate) &'a [&'static str]);

/// The series, row after row.
#[derive(Debug)]
pub(crate) struct Grid<T> {
    cells: Vec<T>,
    columns: usize,
}

impl<T> Grid<T> {
    /// The series of one value of the first label and one of the second; 0 where there is no second.
    pub(crate) fn at(&self, row: usize, column: usize) -> Option<&T> {
        self.cells.get(row * self.columns + column)
    }

    fn of<B>(registry: &Registry, vec: &MetricVec<B>, rows: &[&str], columns: &[&str]) -> Result<Self>
    where
        B: MetricVecBuilder<M = T> + 'static,
        T: 'static,
    {
        registry.register(Box::new(vec.clone()))?;
        let mut cells = Vec::with_capacity(rows.len() * columns.len().max(1));
        for row in rows {
            if columns.is_empty() {
                cells.push(vec.get_metric_with_label_values(&[row])?);
            }
            for column in columns {
                cells.push(vec.get_metric_with_label_values(&[row, column])?);
            }
        }
        Ok(Self {
            cells,
            columns: columns.len().max(1),
        })
    }
}

fn named(labels: &[Label<'_>]) -> Vec<&'static str> {
    labels.iter().map(|label| label.0).collect()
}

fn values<'a>(labels: &[Label<'a>], index: usize) -> &'a [&'static str] {
    labels.get(index).map_or(&[], |label| label.1)
}

/// Things that happen, by one or two labels.
pub(crate) fn counters(registry: &Registry, name: &str, help: &str, labels: &[Label<'_>]) -> Result<Grid<IntCounter>> {
    let vec = IntCounterVec::new(Opts::new(name, help), &named(labels))?;
    Grid::of(registry, &vec, values(labels, 0), values(labels, 1))
}

/// Whole numbers that go up and down.
pub(crate) fn gauges(registry: &Registry, name: &str, help: &str, labels: &[Label<'_>]) -> Result<Grid<IntGauge>> {
    let vec = IntGaugeVec::new(Opts::new(name, help), &named(labels))?;
    Grid::of(registry, &vec, values(labels, 0), values(labels, 1))
}

/// Seconds that go up and down.
pub(crate) fn seconds(registry: &Registry, name: &str, help: &str, labels: &[Label<'_>]) -> Result<Grid<Gauge>> {
    let vec = GaugeVec::new(Opts::new(name, help), &named(labels))?;
    Grid::of(registry, &vec, values(labels, 0), values(labels, 1))
}

/// How long things take, in seconds.
pub(crate) fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &Label<'_>,
    buckets: &[f64],
) -> Result<Grid<Histogram>> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let vec = HistogramVec::new(options, &[label.0])?;
    Grid::of(registry, &vec, label.1, &[])
}

/// One whole number without a label.
pub(crate) fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
