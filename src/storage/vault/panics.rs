//! Panics of the database over a file that is damaged: caught, and told in one line by whoever called it, in place of
//! the text that a panic prints. Those of everything else are told as before.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// What a panic says while the database is called on this thread; none at other times.
    static CALLED: Cell<Option<String>> = const { Cell::new(None) };
}

/// What a panic said, and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

/// Calls the database. Nothing that `work` changes is looked at again after a panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    let before = CALLED.replace(Some(String::new()));
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    let told = CALLED.replace(before).unwrap_or_default();
    done.map_err(|_| Panicked(told))
}

/// Panics on threads that call the database are kept, all others go to the hook that was there.
fn install() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| match CALLED.take() {
        // The first says what was wrong; others come of it.
        Some(first) if !first.is_empty() => CALLED.set(Some(first)),
        Some(_) => CALLED.set(Some(text_of(info))),
        None => usual(info),
    }));
}

/// One line.
fn text_of(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let said = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let said = said.unwrap_or("it does not say why").replace('\n', " ");
    match info.location() {
        Some(place) => format!("{said}, at {}:{}", file_name(place.file()), place.line()),
        None => said,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_one_line_and_what_is_caught_within_changes_nothing() {
        assert_eq!(caught(|| 5), Ok(5));
        let Err(Panicked(text)) = caught(|| -> u8 { panic!("two\nlines") }) else { panic!("it goes on") };
        assert!(text.starts_with("two lines, at panics.rs:"), "{text}");
        let outer = caught(|| {
            assert!(caught(|| panic!("inner")).is_err());
            7
        });
        assert_eq!(outer, Ok(7));
    }
}
