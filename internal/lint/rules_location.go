package lint

// The rules about where machines say they are.

func locationOverNetwork(m *model, report reporter) {
	for _, c := range m.extensions("tpm") {
		endpoint := c.cfg.at("location", "gpsd").text("endpoint")
		if endpoint != "" && !loopback(endpoint) {
			report(c.path("location", "gpsd", "endpoint"), "gpsd is at "+endpoint)
		}
	}
}

func speedNotJudged(m *model, report reporter) {
	checks := func(c component) bool { return c.typ == "tpmverify" && verifyMode(c) == "check" }
	for _, p := range m.places(checks) {
		if p.cfg.at("location").positive("max_speed") {
			report(p.path("location", "max_speed"), p.id+" has mode check")
		}
	}
}
