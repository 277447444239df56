//! Metrics in Prometheus' text form (exposition format 0.0.4): names, help, samples. Which there are is in `run/metrics.rs`.

use std::fmt::Write as _;

mod destinations;
mod histogram;
mod routes;

pub use destinations::DestinationCounts;
pub use histogram::Histogram;
pub use routes::{RouteCounts, RouteName, shortened};

/// A page of metrics.
#[derive(Default)]
pub struct Page(String);

/// What kind of a number it is.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Rises only.
    Counter,
    /// Rises and falls.
    Gauge,
}

/// Names and values that tell samples of a metric apart.
pub type Labels<'l> = [(&'static str, &'l str)];

impl Page {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, kind: Kind, name: &'static str, help: &str) -> Metric<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.head(kind, name, help);
        Metric { page: self, name }
    }

    /// A metric with one sample.
    pub fn one(&mut self, kind: Kind, name: &'static str, help: &str, value: impl Into<Number>) {
        self.metric(kind, name, help).sample(&[], value);
    }

    /// Begins a histogram; its samples follow.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.head("histogram", name, help);
        Metric { page: self, name }
    }

    /// The page.
    pub fn text(self) -> String {
        self.0
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &Labels<'_>, value: Number) {
        let _ = write!(self.0, "{name}{suffix}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = match value {
            Number::Whole(value) => writeln!(self.0, "{after} {value}"),
            Number::Real(value) => writeln!(self.0, "{after} {value}"),
        };
    }
}

/// A metric under way.
pub struct Metric<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Metric<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &Labels<'_>, value: impl Into<Number>) {
        self.page.line(self.name, "", labels, value.into());
    }

    /// Adds the samples of a histogram that was counted with these bounds.
    pub fn spread(&mut self, labels: &Labels<'_>, bounds: &[f64], histogram: &Histogram) {
        let ends = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut sum = 0;
        for (end, count) in ends.zip(histogram.counts(bounds)) {
            sum += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            self.page.line(self.name, "_bucket", &labels, sum.into());
        }
        self.page.line(self.name, "_sum", labels, histogram.sum_s().into());
        self.page.line(self.name, "_count", labels, sum.into());
    }
}

/// A sample's value.
#[derive(Clone, Copy)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A time or a share.
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// As the format wants label values; names of objects come from outside.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn samples_stand_below_their_metric_and_labels_cannot_break_out() {
        let mut page = Page::default();
        page.one(Kind::Gauge, "up", "Whether.", true);
        page.metric(Kind::Counter, "seen_total", "How often.").sample(&[("name", "a\"b\\\n"), ("b", "c")], 7);
        let want = "# HELP up Whether.\n# TYPE up gauge\nup 1\n# HELP seen_total How often.\n\
                    # TYPE seen_total counter\nseen_total{name=\"a\\\"b\\\\\\n\",b=\"c\"} 7\n";
        assert_eq!(page.text(), want);
    }

    #[test]
    fn buckets_count_everything_up_to_their_bound() {
        let mut histogram = Histogram::default();
        for ms in [5, 10, 50, 5_000] {
            histogram.observe(&[0.01, 0.1], Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("took_seconds", "How long.").spread(&[("a", "b")], &[0.01, 0.1], &histogram);
        let want = "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
                    took_seconds_bucket{a=\"b\",le=\"0.01\"} 2\ntook_seconds_bucket{a=\"b\",le=\"0.1\"} 3\n\
                    took_seconds_bucket{a=\"b\",le=\"+Inf\"} 4\ntook_seconds_sum{a=\"b\"} 5.065\n\
                    took_seconds_count{a=\"b\"} 4\n";
        assert_eq!(page.text(), want);
    }

    #[test]
    fn a_histogram_without_values_is_all_zeros() {
        let mut page = Page::default();
        page.histogram("took_seconds", "How long.").spread(&[], &[1.0], &Histogram::default());
        assert!(page.text().ends_with(
            "took_seconds_bucket{le=\"1\"} 0\ntook_seconds_bucket{le=\"+Inf\"} 0\ntook_seconds_sum 0\ntook_seconds_count 0\n"
        ));
    }
}
