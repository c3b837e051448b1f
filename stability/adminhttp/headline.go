package adminhttp

// tone says how bad it is, worst first.
type tone string

const (
	bad  tone = "bad"  // somebody must do something
	warn tone = "warn" // not as it should be, and it may pass by itself
	calm tone = "calm" // as it should be, elsewhere
	good tone = "good"
)

// rank orders accounts: worst first.
func (t tone) rank() int {
	switch t {
	case bad:
		return 0
	case warn:
		return 1
	case calm:
		return 2
	}
	return 3
}

// headline is what somebody reads first. Nothing in it counts or runs: a screen
// reader says it again only when it has changed.
type headline struct {
	State string // a stable word, for tests and styles
	Tone  tone
	Word  string // never the colour alone
	Text  string
}
