//! `yaml` as a program: by libFuzzer if it is built for that, else over the files that it is given.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::yaml(bytes));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::yaml);
}
