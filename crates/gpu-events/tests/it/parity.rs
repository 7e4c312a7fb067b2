//! `docs/seed-parity.md` names tests: that they are there, and that no row goes without.

/// The modules whose tests the document names.
const SOURCES: [(&str, &str); 4] = [
    ("hazards", include_str!("hazards.rs")),
    ("ids", include_str!("ids.rs")),
    ("process", include_str!("process.rs")),
    ("streams", include_str!("streams.rs")),
];

/// What stands between backticks and looks like a test: `module::name`, or a name with underscores.
fn tests_in(cell: &str) -> Vec<&str> {
    let looks_like_one = |word: &&str| {
        word.contains('_')
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
    };
    cell.split('`').skip(1).step_by(2).filter(looks_like_one).collect()
}

#[test]
fn every_row_of_the_parity_table_names_a_test_that_exists() {
    let document = include_str!("../../../../docs/seed-parity.md");
    let rows = document.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    let mut named = 0;
    for row in rows.filter(|row| !row.contains("the test that shows it")) {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a row has cells");
        let tests = tests_in(cell);
        assert!(!tests.is_empty(), "no test is named in: {row}");
        for test in tests {
            let (module, name) = test.split_once("::").unwrap_or(("hazards", test));
            let (_, source) = SOURCES
                .into_iter()
                .find(|(of, _)| *of == module)
                .unwrap_or_else(|| panic!("{test} is in no module that is looked at"));
            assert!(source.contains(&format!("#[test]\nfn {name}()")), "there is no test {test}");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests were found");
}
