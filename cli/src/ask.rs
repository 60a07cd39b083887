//! `axvm ask SOCKET LINE...`: commands of the shell for a run that listens at a socket (`axvm run --control`), and its answers.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::args::Ask;
use crate::output::print;

/// Asks them one after the other, and prints each answer in a line.
pub fn ask(arguments: &Ask) -> ExitCode {
    let answered = each(&arguments.socket, &arguments.lines, |answer| print(&format!("{answer}\n")));
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!(
                "axvm: {}: {error} (a run listens there that was started with --control)",
                arguments.socket.display()
            );
            ExitCode::from(2)
        }
    }
}

/// Asks at a socket. Whether none of the answers is an error.
fn each(socket: &Path, lines: &[String], mut show: impl FnMut(&str)) -> io::Result<bool> {
    let stream = UnixStream::connect(socket)?;
    let mut answers = BufReader::new(&stream).lines();
    let mut good = true;
    for line in lines {
        // One line is one command.
        writeln!(&stream, "{}", line.replace(['\r', '\n'], " "))?;
        let answer = answers.next().transpose()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        good &= serde_json::from_str::<Value>(&answer).is_ok_and(|it| it.get("error").is_none());
        show(&answer);
    }
    // It may have gone by itself: that was the command.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(good)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Asks somebody who answers with these lines, and what he was asked.
    fn asked(
        answers: &'static [&'static str],
        lines: &[&str],
    ) -> (io::Result<bool>, Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let other = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut heard = BufReader::new(&stream).lines();
            let hear = |answer: &&str| {
                let line = heard.next()?.ok()?;
                writeln!(&stream, "{answer}").ok()?;
                Some(line)
            };
            answers.iter().map_while(hear).collect::<Vec<String>>()
        });
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let mut shown = Vec::new();
        let result = each(&path, &lines, |answer| shown.push(answer.to_owned()));
        (result, shown, other.join().unwrap())
    }

    #[test]
    fn each_line_is_one_command_and_each_answer_is_shown() {
        let (result, shown, heard) =
            asked(&[r#"{"vms":[]}"#, r#"{"done":"so"}"#], &["vms", "stop a\nstop b"]);
        assert!(result.unwrap());
        assert_eq!(shown, [r#"{"vms":[]}"#, r#"{"done":"so"}"#]);
        assert_eq!(heard, ["vms", "stop a stop b"]);
    }

    #[test]
    fn an_answer_that_is_an_error_is_shown_and_told() {
        let error = r#"{"error":{"kind":"unknown","message":"no"}}"#;
        let (result, shown, _) =
            asked(&[r#"{"error":{"kind":"unknown","message":"no"}}"#, r#"{"done":"so"}"#], &["a", "b"]);
        assert!(!result.unwrap());
        assert_eq!(shown, [error, r#"{"done":"so"}"#]);
    }

    #[test]
    fn a_run_that_is_gone_is_an_error() {
        let (result, shown, _) = asked(&[], &["vms"]);
        assert!(result.is_err() && shown.is_empty());
        assert!(each(Path::new("/nowhere/control"), &[], |_| ()).is_err());
    }
}
