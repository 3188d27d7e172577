//! `report.html`: self-contained, equal for equal runs, and nothing of a run's texts is markup in it.

use super::{done, pairs, read, run, workshop};
use llama_align::report::{page, RunView, SampleAnswer};

const HOSTILE: &str = "</p><script>alert(1)</script> \" onload='x' &lt; \u{202e}txt\u{0} \u{5e9}\u{5dc}\u{5d5}\u{5dd} <img src=http://x.y>";

/// Everything between `<` and `>`.
fn tags(html: &str) -> Vec<&str> {
    html.split('<').skip(1).filter_map(|t| t.split('>').next()).collect()
}

#[test]
fn a_finished_run_has_its_page() {
    let dir = workshop();
    let dir = dir.path();
    let hostile = format!("{{\"prompt\":{0},\"chosen\":\"a\",\"rejected\":\"b\"}}\n", serde_json::json!(HOSTILE));
    std::fs::write(dir.join("rows.jsonl"), pairs(8, 0)).unwrap();
    std::fs::write(dir.join("held.jsonl"), hostile + &pairs(4, 50)).unwrap();
    let train =
        ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-t", "1", "--eval-data", "held.jsonl", "--eval-steps", "2"];
    done(dir, &[&train[..], &["--max-steps", "4", "--samples", "2", "-o", "run"]].concat());
    let html = read(dir, "run/report.html");
    for says in [
        "Held-out rows",
        "Reward margin",
        "Gradient norm by block",
        "Answers before and after",
        "llama-server -m MODEL.gguf",
    ] {
        assert!(html.contains(says), "no {says:?}");
    }
    // Nothing is loaded, run or linked to; what the run's texts say is text.
    for tag in tags(&html) {
        let lower = tag.to_lowercase();
        let foreign = ["script", "img", "link ", "iframe", "a ", "object", "embed", "base"];
        assert!(!foreign.iter().any(|f| lower.starts_with(f)), "<{tag}>");
        assert!(!lower.contains("onload") && !lower.contains("href") && !lower.contains("src="), "<{tag}>");
    }
    assert!(html.contains("&lt;/p&gt;&lt;script&gt;alert(1)") && html.contains("[U+202E]txt\u{2400} \u{5e9}"));
    assert!(html.contains("&lt;img src=http://x.y&gt;"));
    let outside = html.replace("http://x.y", "");
    assert!(
        !outside.contains("http:")
            && !outside.contains("https:")
            && !outside.contains("url(")
            && !outside.contains("@import")
    );
    assert!(!html.contains("NaN") && !html.contains(dir.to_str().unwrap()));
    // Every picture has a name and a description of its own.
    let pictures = html.matches("<svg").count();
    assert!(
        pictures >= 7
            && html.matches("<title id=").count() == pictures
            && html.matches("<desc id=").count() == pictures
    );
    let mut ids: Vec<_> = html.split(" id=\"").skip(1).filter_map(|t| t.split('"').next()).collect();
    let n_ids = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), n_ids);
    balanced(&html);
    // Written again it is the same, and a second run's is as well.
    done(dir, &["report", "run"]);
    assert!(read(dir, "run/report.html") == html);
    done(dir, &[&train[..], &["--max-steps", "4", "--samples", "2", "-o", "again"]].concat());
    assert!(read(dir, "again/report.html") == html);
}

/// Every element that is opened is closed, in order.
fn balanced(html: &str) {
    let void = ["meta", "br", "path", "circle"];
    let mut open: Vec<&str> = Vec::new();
    for tag in tags(html).into_iter().filter(|t| !t.starts_with('!')) {
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another element");
        } else if !void.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

#[test]
fn texts_of_every_file_are_escaped() {
    let mut view = RunView::default();
    view.config.insert("method".into(), HOSTILE.into());
    view.config.insert(HOSTILE.into(), HOSTILE.into());
    view.samples = vec![SampleAnswer { prompt: HOSTILE.into(), before: HOSTILE.into(), after: String::new() }];
    let html = page(&view);
    balanced(&html);
    let n_scripts = tags(&html).iter().filter(|t| t.to_lowercase().contains("script")).count();
    assert_eq!(n_scripts, 0);
    assert!(html.contains("The run is not complete") && html.contains("(nothing)"));
}

#[test]
fn what_is_no_run_is_refused_and_a_stopped_run_has_a_page() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::create_dir(dir.join("half")).unwrap();
    let ran = run(dir, &["report", "half"]);
    assert!(ran.status == 66 && ran.err.contains("half/config.toml"), "{ran:?}");
    std::fs::write(dir.join("half/config.toml"), "method = \"kto\"\nmax_grad_norm = 1.0\n").unwrap();
    std::fs::write(dir.join("half/metrics.jsonl"), "{\"loss\":0.5,\"kl\":0.1,\"global_step\":1}\n{\"loss\"").unwrap();
    let ran = run(dir, &["report", "half"]);
    assert!(ran.status == 65 && ran.err.contains("metrics.jsonl:2"), "{ran:?}");
    std::fs::write(dir.join("half/metrics.jsonl"), "{\"loss\":0.5,\"kl\":0.1,\"global_step\":1}\n").unwrap();
    done(dir, &["report", "half"]);
    let html = read(dir, "half/report.html");
    assert!(html.contains("not complete") && html.contains("id=\"kl-t\"") && !html.contains("llama-server"));
    balanced(&html);
}
