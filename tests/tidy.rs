//! What keeps the tree, its pages and its tests in step.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Workplace;

/// The rungs of `src/lib.rs`, from the bottom up. Those that share a rung do not import each other.
const LADDER: [&[&str]; 7] =
    [&["base"], &["crypto", "protocol"], &["channel"], &["storage"], &["client", "server"], &["bridge"], &["cli"]];
/// No function is meant to be longer, and few are.
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 900;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder of the checkout, by their paths in it.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![checkout().join(folder)];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.iter().map(|path| path.strip_prefix(checkout()).unwrap().to_path_buf()).collect()
}

/// The Rust sources below `src/` and `tests/`, with their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let rust = files(folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| (path.display().to_string(), read(&path))).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = checkout().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rung(module: &str) -> Option<usize> {
    LADDER.iter().position(|rung| rung.contains(&module))
}

/// The modules that a source names after `crate::`, with the lines.
fn named_modules(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for after in code.split("crate::").skip(1) {
            // A group is looked through name by name: `use crate::{base, server::Server};`
            let group = after.strip_prefix('{').map_or(after, |group| group.split('}').next().unwrap_or(group));
            let names: Vec<&str> = if after.starts_with('{') { group.split(',').collect() } else { vec![group] };
            for name in names {
                let is_part = |character: char| character.is_alphanumeric() || character == '_';
                let name: String = name.trim().chars().take_while(|character| is_part(*character)).collect();
                found.push((index + 1, name));
            }
        }
    }
    found
}

/// What a source of `module` names that it must not: a step up or sideways.
fn wrong_steps(module: &str, text: &str) -> Vec<(usize, String)> {
    let own = rung(module).unwrap_or_else(|| panic!("{module} has no rung on the ladder"));
    let allowed = |name: &str| name == module || rung(name).is_none_or(|rung| rung < own);
    named_modules(text).into_iter().filter(|(_, name)| !allowed(name)).collect()
}

#[test]
fn each_module_imports_only_rungs_below_it() {
    let mut looked_at = BTreeSet::new();
    for (path, text) in sources("src") {
        let Some(module) = path.strip_prefix("src/").and_then(|rest| rest.split_once('/')).map(|(first, _)| first)
        else {
            continue;
        };
        looked_at.insert(module.to_string());
        let wrong = wrong_steps(module, &text);
        assert!(wrong.is_empty(), "{path} steps up or sideways: {wrong:?}");
    }
    let rungs: BTreeSet<String> = LADDER.concat().into_iter().map(str::to_string).collect();
    assert_eq!(looked_at, rungs);
}

#[test]
fn the_ladder_is_the_one_that_the_library_shows() {
    let text = read("src/lib.rs");
    let mut groups: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines() {
        match line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            Some(name) => groups.last_mut().unwrap().push(name),
            None if !groups.last().unwrap().is_empty() => groups.push(Vec::new()),
            None => {}
        }
    }
    groups.retain(|group| !group.is_empty());
    assert_eq!(groups, LADDER);
}

#[test]
fn a_step_up_or_sideways_is_seen() {
    assert_eq!(wrong_steps("server", "use crate::client::Client;"), [(1, "client".to_string())]);
    assert_eq!(wrong_steps("base", "\n    let x = crate::cli::run();"), [(2, "cli".to_string())]);
    assert_eq!(wrong_steps("crypto", "use crate::{base::ids, protocol::header};"), [(1, "protocol".to_string())]);
    assert_eq!(wrong_steps("client", "use crate::{base, channel};\nuse crate::client::x; // crate::cli"), []);
}

/// The lines of README's blocks of code.
fn readme_commands() -> Vec<String> {
    let (mut inside, mut commands) = (false, Vec::new());
    for line in read("README.md").lines() {
        match line.trim_start().starts_with("```") {
            true => inside = !inside,
            false if inside => commands.push(line.trim().trim_start_matches("$ ").to_string()),
            false => {}
        }
    }
    commands
}

#[test]
fn the_readmes_two_commands_are_the_ones_the_tests_run() {
    let commands = readme_commands();
    for wanted in ["cargo run --release -- backup --local-server", "tests/run"] {
        assert!(commands.iter().any(|line| line == wanted), "README.md has no line {wanted:?} in a block of code");
    }
    let story = read("tests/demo_scenarios.rs");
    assert!(
        story.contains("workplace.run([\"backup\", \"--local-server\"])"),
        "no test runs README's first command"
    );
    assert!(read(".ci/run").contains("tests/run"), ".ci/run does not call tests/run");
}

#[test]
fn every_command_that_the_readme_shows_exists() {
    let workplace = Workplace::new();
    for line in readme_commands() {
        let words = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("cyberbackup "));
        let Some(words) = words.map(|words| words.split_whitespace().collect::<Vec<_>>()) else { continue };
        if words[0].starts_with('-') || words[0] == "help" {
            workplace.run(&words[..1]).expect(0);
            continue;
        }
        let help = workplace.run(["help", words[0]]).expect(0).out();
        for flag in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
            let name = flag.split('=').next().unwrap();
            assert!(help.contains(&format!("{name} ")), "README.md shows {name} with {}: {help}", words[0]);
        }
    }
}

#[test]
fn every_command_is_in_the_readme() {
    let readme = read("README.md");
    let overview = Workplace::new().run(["help"]).expect(0).out();
    let list = overview.split("commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10, "{list}");
    for command in commands {
        let forms = [format!("`{command}"), format!("cyberbackup {command}"), format!("-- {command}")];
        assert!(forms.iter().any(|form| readme.contains(form)), "README.md does not mention {command}");
    }
}

#[test]
fn the_test_script_can_be_run_as_it_stands() {
    use std::os::unix::fs::PermissionsExt;
    for name in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(checkout().join(name)).unwrap().permissions().mode();
        assert!(mode & 0o111 == 0o111, "{name} is not executable");
    }
}

#[test]
fn every_vector_is_used_by_a_test() {
    let all: String = [sources("src"), sources("tests")].concat().into_iter().map(|(_, text)| text).collect();
    let vectors = files("tests/testdata/vectors");
    assert!(!vectors.is_empty());
    for path in vectors {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(all.contains(&format!("{name}\"")), "no test names the vector {name}");
    }
}

#[test]
fn every_module_begins_with_what_it_is_for() {
    for (path, text) in [sources("src"), sources("tests")].concat() {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! "), "{path} begins with {first:?}");
    }
}

/// The lengths of the functions of a source: from `fn` to the brace that closes it at the same depth.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words =
            code.trim_start_matches("pub ").trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
        if !words.starts_with("fn ") && !words.starts_with("const fn ") && !words.starts_with("unsafe fn ") {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == closing).map_or(1, |end| end + 1);
        // One that ends in the line it begins in has no closing line of its own.
        let is_one_line = line.ends_with('}') || line.ends_with(';');
        found.push((code.chars().take(60).collect(), if is_one_line { 1 } else { length }));
    }
    found
}

#[test]
fn functions_fit_a_screen_and_files_a_sitting() {
    let (mut all, mut long) = (0, Vec::new());
    for (path, text) in [sources("src"), sources("tests")].concat() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines: split it");
        for (name, length) in functions(&text) {
            all += 1;
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{path}: {name} ({length} lines)"));
            }
        }
    }
    assert!(all > 1_000, "only {all} functions were found");
    assert!(long.len() * 100 < all * 3, "{} of {all} functions are long: {long:#?}", long.len());
}

#[test]
fn the_length_of_a_function_is_counted() {
    let text = "fn a() {\n    x();\n}\n\nimpl B {\n    pub fn b(\n        c: u8,\n    ) {\n        y()\n    }\n    fn one() {}\n}\n";
    let lengths: Vec<usize> = functions(text).into_iter().map(|(_, length)| length).collect();
    assert_eq!(lengths, [3, 5, 1]);
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    // Put together here, so that this file does not hold them.
    let words = [("to", "do!"), ("unimple", "mented!"), ("db", "g!"), ("FIX", "ME")];
    for (path, text) in [sources("src"), sources("tests")].concat() {
        for (start, end) in words {
            let word = format!("{start}{end}");
            let found = text.lines().position(|line| line.contains(&word));
            assert_eq!(found, None, "{path} holds {word}");
        }
    }
}

#[test]
fn a_lint_that_is_switched_off_says_why() {
    let switch = format!("#[{}(", "allow");
    for (path, text) in [sources("src"), sources("tests")].concat() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(&switch)) {
            let above = index.checked_sub(1).map_or("", |above| lines[above].trim_start());
            let has_reason = line.contains("reason = ") || line.contains(" // ") || above.starts_with("//");
            assert!(has_reason, "{path} line {}: {line}", index + 1);
        }
        assert!(!text.contains(&format!("#![{}(", "allow")), "{path} switches a lint off for all of itself");
    }
}

#[test]
fn unsafe_code_stands_in_two_files() {
    // One call that the libraries lack, and the instructions that hash side by side.
    let files = ["src/base/durable.rs", "src/crypto/lanes/sha256.rs"];
    let word = format!("{} {{", "unsafe");
    let other = [format!("{} fn", "unsafe"), format!("{} impl", "unsafe"), format!("{} extern", "unsafe")];
    for (path, text) in sources("src") {
        let has_some = text.contains(&word) || other.iter().any(|word| text.contains(word));
        assert!(!has_some || files.contains(&path.as_str()), "{path} has code that the compiler does not check");
    }
}

#[test]
fn no_path_of_a_machine_and_no_registry_is_named() {
    // Put together here, so that this file does not hold them.
    let wrong = [["/wo", "rk/"], ["crates", ".io"], ["sparse", "+http"]];
    let mut texts = [sources("src"), sources("tests")].concat();
    for name in ["Cargo.toml", "README.md", "tests/run", ".ci/run", "transfer.info"] {
        texts.push((name.to_string(), read(name)));
    }
    // All but the pictures, and what the page is made of.
    let is_text = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "png");
    for path in files("docs").into_iter().chain(files("static")).filter(is_text) {
        texts.push((path.display().to_string(), read(&path)));
    }
    for (path, text) in texts {
        for (number, line) in text.lines().enumerate() {
            for [start, end] in wrong {
                assert!(!line.contains(&format!("{start}{end}")), "{path} line {}: {line}", number + 1);
            }
        }
    }
}
