//! A program that serves: started, waited for until it says so, and killed in the end.

use std::{
    io::{BufRead, BufReader, pipe},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{secrets, until};

/// How long a program may take to start, or to stop. It takes milliseconds, but the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and all that it starts: a process group, killed when dropped.
pub(crate) struct Process {
    child: Option<Child>,
    log: watch::Receiver<Vec<String>>,
    reader: Option<JoinHandle<()>>,
    prints_no_secret: bool,
}

impl Process {
    /// Starts a program, and waits for the line of its output in which `ready` finds something.
    pub(crate) async fn start<T: Send + 'static>(
        mut command: Command,
        ready: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        let (output, input) = pipe().expect("a pipe can be made");
        let (found, finding) = oneshot::channel();
        let child = command
            .stdout(input.try_clone().expect("a pipe can be shared"))
            .stderr(input)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (lines, log) = watch::channel(Vec::new());
        drop(command); // It holds the pipe open, whose end tells that the program has ended.

        let reader = thread::spawn(move || {
            let mut found = Some(found);
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(finding) = found.as_ref().and_then(|_| ready(&line))
                    && let Some(found) = found.take()
                {
                    let _ = found.send(finding); // Nobody listens any longer once the test has given up.
                }
                lines.send_modify(|log| log.push(line));
            }
        });
        let process = Self { child: Some(child), log, reader: Some(reader), prints_no_secret: false };
        match timeout(PATIENCE, finding).await {
            Ok(Ok(finding)) => (process, finding),
            Ok(Err(_)) => panic!("the program ended before it was ready"),
            Err(_) => panic!("the program does not get ready"),
        }
    }

    /// Demands that nothing the program prints until its end holds a secret of the tests. It starts no others that would
    /// go on after it.
    pub(crate) fn prints_no_secret(&mut self) {
        self.prints_no_secret = true;
    }

    /// Waits for a line of the program's output in which `pick` finds something.
    pub(crate) async fn line<T>(&self, pick: impl Fn(&str) -> Option<T>) -> T {
        let mut log = self.log.clone();
        let find = |log: &Vec<String>| log.iter().find_map(|line| pick(line));
        let log = timeout(PATIENCE, log.wait_for(|log| find(log).is_some())).await;
        find(&log.expect("the line is written").expect("the program runs")).expect("it was just found")
    }

    /// Asks again and again whether the program is ready, until it is.
    pub(crate) async fn until(&self, is_ready: impl AsyncFn() -> bool) {
        let mut log = self.log.clone();
        tokio::select! {
            () = until(is_ready) => {}
            _ = log.wait_for(|_| false) => panic!("the program ended before it was ready"),
        }
    }

    /// Waits for a line of the program's output that is meant, and returns all up to it.
    pub(crate) async fn lines_until(&self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let mut log = self.log.clone();
        let end = |log: &Vec<String>| log.iter().position(|line| is_meant(line));
        let log = timeout(PATIENCE, log.wait_for(|log| end(log).is_some())).await;
        let log = log.expect("the line is written").expect("the program runs");
        log[..=end(&log).expect("it was just found")].to_vec()
    }

    /// The program's own process.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs until it is stopped").id()
    }

    /// Asks the program to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.send(Signal::TERM);
    }

    /// Asks the program to stop, and returns once it has, well.
    pub(crate) async fn stop(self) {
        let status = self.end(Signal::TERM).await;
        assert!(status.success(), "the program stopped with {status}");
    }

    /// Lets the program do nothing any more, not even end: its connections stay open.
    pub(crate) fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// Lets a program go on that was frozen.
    pub(crate) fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// Interrupts the program, and returns once it has ended.
    pub(crate) async fn interrupt(self) {
        self.end(Signal::INT).await;
    }

    /// Returns once the program has ended, well.
    pub(crate) async fn ended(mut self) {
        let status = self.status().await;
        assert!(status.success(), "the program stopped with {status}");
    }

    fn send(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a program is stopped once");
        kill_process(Pid::from_child(child), signal).expect("the program runs");
    }

    async fn end(mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        self.status().await
    }

    async fn status(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a program is stopped once");
        let wait = tokio::task::spawn_blocking(move || child.wait());
        timeout(PATIENCE, wait).await.expect("the program stops").unwrap().unwrap()
    }

    /// Waits for the end of a program that is about to end.
    pub(crate) fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait(); // How it ended is not asked.
        }
    }

    /// Ends the program and all that it started, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL); // It may have ended by itself.
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let reader = self.reader.take().filter(|_| self.prints_no_secret && !thread::panicking());
        if let Some(reader) = reader {
            reader.join().expect("the program's output can be read");
            secrets::assert_none_in(self.log.borrow().iter().map(String::as_str));
        }
        if thread::panicking() {
            let log = self.log.borrow();
            eprintln!("the program's last lines:\n{}", log[log.len().saturating_sub(60)..].join("\n"));
        }
    }
}
