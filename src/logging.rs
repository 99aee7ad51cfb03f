//! What is written to standard error: for people on a terminal, one JSON object a line elsewhere.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer, format};
use tracing_subscriber::fmt::{self as lines, FmtContext};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};
use crate::traces::Traces;

static ACCESS: AtomicBool = AtomicBool::new(false);

/// Whether there is a line for each request.
///
/// The subscriber is not asked: with a filter for each layer, a question that no event follows spoils the answer for the next span.
pub fn keeps_access_log() -> bool {
    ACCESS.load(Ordering::Relaxed)
}

/// Sets up logging for the process, once, and traces beside it if there are any.
pub fn init(log: &Log, traces: Option<&Traces>) {
    let level = match log.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let mut targets = Targets::new().with_default(Level::WARN.min(level)).with_target("wharf", level);
    ACCESS.store(log.access, Ordering::Relaxed);
    if log.access {
        targets = targets.with_target(crate::server::ACCESS_LOG, Level::INFO);
    }
    let text = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer = lines::layer().with_writer(io::stderr);
    let layer = if text {
        let format = format().with_ansi(io::stderr().is_terminal());
        layer.event_format(Stamped { format, stamp: Stamp::text(&log.fields) }).with_filter(targets).boxed()
    } else {
        let format = format().json().flatten_event(true).with_span_list(false);
        let stamped = Stamped { format, stamp: Stamp::json(&log.fields) };
        layer.event_format(stamped).fmt_fields(JsonFields::new()).with_filter(targets).boxed()
    };
    tracing_subscriber::registry().with(layer).with(traces.map(Traces::layer)).init();
}

/// The fields as they follow the opening brace of an object that has others too.
pub fn json_fields(fields: &[(String, String)]) -> String {
    let field = |(name, value): &(String, String)| {
        format!("{}:{},", Value::from(name.as_str()), Value::from(value.as_str()))
    };
    fields.iter().map(field).collect()
}

/// Writes lines as `format` does, with the same fields on each.
struct Stamped<F> {
    format: F,
    stamp: Stamp,
}

/// What is put on each line, ready to be written.
enum Stamp {
    Nothing,
    /// After the opening brace.
    Beginning(String),
    /// Before the end of the line.
    End(String),
}

impl Stamp {
    fn json(fields: &[(String, String)]) -> Self {
        let fields = json_fields(fields);
        if fields.is_empty() { Self::Nothing } else { Self::Beginning(fields) }
    }

    fn text(fields: &[(String, String)]) -> Self {
        let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value:?}")).collect();
        if fields.is_empty() { Self::Nothing } else { Self::End(fields) }
    }
}

impl<S, N, F> FormatEvent<S, N> for Stamped<F>
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
        if matches!(self.stamp, Stamp::Nothing) {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        match &self.stamp {
            Stamp::Beginning(fields) if line.starts_with('{') => write!(writer, "{{{fields}{}", &line[1..]),
            Stamp::End(fields) => writeln!(writer, "{}{fields}", line.trim_end()),
            Stamp::Nothing | Stamp::Beginning(_) => writer.write_str(&line),
        }
    }
}
