//! What is written to standard error: for people on a terminal, one JSON object a line elsewhere.
//!
//! Whoever logs an error passes it on as one (`error = &error as &dyn Error`): what caused it is written here, in either form.
//! Nobody waits until it is written, as for the events of the audit log.

mod lines;

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, JsonFields, Writer, format};
use tracing_subscriber::fmt::{self as formatted, FmtContext};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use self::lines::Lines;
use crate::config::{Log, LogFormat, LogLevel};
use crate::traces::Traces;

static ACCESS: AtomicBool = AtomicBool::new(false);
static LINES: Lines = Lines::new();

/// How long somebody who reads standard error slowly, or not at all, may keep the process from ending.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Whether there is a line for each request.
///
/// The subscriber is not asked: with a filter for each layer, a question that no event follows spoils the answer for the next span.
pub fn keeps_access_log() -> bool {
    ACCESS.load(Ordering::Relaxed)
}

/// How many lines were lost because standard error did not take them.
pub fn lost_lines() -> u64 {
    LINES.lost()
}

/// Returns once what was logged is written, if standard error takes it within a second.
pub fn flush() {
    LINES.flush(LAST_WAIT);
}

/// Sets up logging for the process, once, and traces beside it if there are any.
///
/// # Errors
/// When the system has no thread left.
pub fn init(log: &Log, traces: Option<&Traces>) -> io::Result<()> {
    thread::Builder::new().name("log".to_owned()).spawn(|| LINES.pass_on_to(io::stderr()))?;
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let mut targets = targets(level);
    ACCESS.store(log.access, Ordering::Relaxed);
    if log.access {
        targets = targets.with_target(crate::server::ACCESS_LOG, Level::INFO);
    }
    let text = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let places = |format: Format| format.with_file(log.places).with_line_number(log.places);
    let layer = formatted::layer().with_writer(|| &LINES);
    let layer = if text {
        let format = places(format()).with_ansi(io::stderr().is_terminal());
        layer.event_format(Line { format, stamp: Stamp::text(&log.fields) }).with_filter(targets).boxed()
    } else {
        let format = places(format()).json().flatten_event(true).with_span_list(false);
        let line = Line { format, stamp: Stamp::json(&log.fields) };
        layer.event_format(line).fmt_fields(JsonFields::new()).with_filter(targets).boxed()
    };
    tracing_subscriber::registry().with(layer).with(traces.map(Traces::layer)).init();
    Ok(())
}

/// Which events are written, those of the access log aside.
fn targets(level: Level) -> Targets {
    Targets::new()
        .with_default(Level::WARN.min(level))
        .with_target("wharf", level)
        // It warns of an answer that it cannot read by showing all of it, and the token that was asked about is in it. What is an
        // error to it, at each attempt of each watch, we are told as well, and say it once.
        .with_target("kube_client", LevelFilter::OFF)
}

/// The fields as they follow the opening brace of an object that has others too.
pub fn json_fields(fields: &[(String, String)]) -> String {
    let field = |(name, value): &(String, String)| {
        format!("{}:{},", Value::from(name.as_str()), Value::from(value.as_str()))
    };
    fields.iter().map(field).collect()
}

/// Writes lines as `format` does, with the same fields on each.
struct Line<F> {
    format: F,
    stamp: Stamp,
}

/// What is put on each line, ready to be written.
enum Stamp {
    /// Before the end of a line of text.
    Text(String),
    /// After the opening brace.
    Json(String),
}

impl Stamp {
    fn json(fields: &[(String, String)]) -> Self {
        Self::Json(json_fields(fields))
    }

    fn text(fields: &[(String, String)]) -> Self {
        Self::Text(fields.iter().map(|(name, value)| format!(" {name}={value:?}")).collect())
    }
}

impl<S, N, F> FormatEvent<S, N> for Line<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut causes = Causes::default();
        let fields = match &self.stamp {
            Stamp::Text(fields) => fields,
            Stamp::Json(fields) => {
                event.record(&mut causes);
                fields
            }
        };
        if fields.is_empty() && causes.0.is_empty() {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        for [alone, with_causes] in &causes.0 {
            line = line.replacen(alone, with_causes, 1);
        }
        match &self.stamp {
            Stamp::Text(fields) => writeln!(writer, "{}{fields}", line.trim_end()),
            Stamp::Json(fields) => write!(writer, "{{{fields}{}", line.strip_prefix('{').unwrap_or(&line)),
        }
    }
}

/// The errors of an event that have causes, as members of a JSON object: as the library writes them there, and as they should be.
#[derive(Default)]
struct Causes(Vec<[String; 2]>);

impl Visit for Causes {
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        // In the text of another member its quotation marks would be escaped, so that it stands in one place alone.
        let member = |text: String| format!("{}:{}", Value::from(field.name()), Value::from(text));
        if error.source().is_some() {
            self.0.push([member(error.to_string()), member(with_causes(error))]);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// An error and all that caused it: the outermost often says little more than that something failed.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read \"{0}\"")]
    struct Outer(&'static str, #[source] io::Error);

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(fields: &[(String, String)], log: impl FnOnce()) -> Value {
        let output = Output::default();
        let format = format().json().flatten_event(true).with_span_list(false);
        let writer = output.clone();
        let layer = formatted::layer()
            .with_writer(move || writer.clone())
            .event_format(Line { format, stamp: Stamp::json(fields) })
            .fmt_fields(JsonFields::new());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_client_of_the_cluster_says_nothing_itself() {
        for level in [Level::WARN, Level::DEBUG] {
            let targets = targets(level);
            assert!(!targets.would_enable("kube_client::client", &Level::WARN));
            assert!(!targets.would_enable("kube_client::client::builder", &Level::ERROR));
            assert!(targets.would_enable("hyper_util", &Level::WARN));
        }
    }

    #[test]
    fn an_error_in_json_has_its_causes_and_changes_nothing_else() {
        let error = Outer("a\n", io::Error::other(Outer("b", io::Error::other("c"))));
        // As somebody might write who wants to be taken for it.
        let said = r#""error":"cannot read \"a\n\"""#;
        for fields in [vec![], vec![("site".to_owned(), said.to_owned())]] {
            let line = line(&fields, || tracing::error!(said, error = &error as &dyn Error, "{said}"));
            assert_eq!(line["error"], "cannot read \"a\n\": cannot read \"b\": c");
            assert_eq!((&line["said"], &line["message"]), (&said.into(), &said.into()));
            assert_eq!(line.get("site").is_some(), !fields.is_empty());
        }
    }
}
