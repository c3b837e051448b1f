package stability

import (
	"cmp"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wastability/wastability/stability/internal/link"
)

// Compat says which parts of whatsmeow's inside were not found as this library
// knows them. It works on without each of them, slower or less exact.
type Compat struct {
	Whatsmeow string // its version in this program
	Library   string // the version of this library
	Missing   []Gap  // never empty, oldest first
}

// compat is what a Manager knows of it.
type compat struct {
	gaps map[link.Reliance]Gap
	told map[link.Reliance]bool // in the log
}

// Gap is one part that was not found.
type Gap struct {
	Part   string // a stable word: "tap", "dialer", "queue_loop", …
	Effect string // the finding, and its meaning
	Since  time.Time
}

// Reliances of this package; those of the link have names there.
const (
	// relyTap: the client's receive logger shows each stanza, as Logger returned it.
	relyTap link.Reliance = "tap"
	// relyProbe: a ping of our own can be sent.
	relyProbe link.Reliance = "send_keep_alive"
)

// relyLogin stands for the tap's sight of the login alone.
const relyLogin link.Reliance = "tap_login"

// lacks reports whether a test took a part away.
func (c *config) lacks(part link.Reliance) bool { return slices.Contains(c.without, part) }

// hides reports whether a test keeps a stanza from the tap.
func (c *config) hides(tag string) bool {
	return len(c.without) > 0 && (c.lacks(relyTap) || c.lacks(relyLogin) && tag == "success")
}

// noteCompatLocked notes that a part is not as it should be, or, with an empty
// text, that it is. The log hears of each part once.
func (m *Manager) noteCompatLocked(part link.Reliance, effect string) {
	if effect == "" {
		delete(m.compat.gaps, part)
		return
	}
	if g, known := m.compat.gaps[part]; known {
		g.Effect = effect
		m.compat.gaps[part] = g
		return
	}
	if m.compat.gaps == nil {
		m.compat.gaps, m.compat.told = map[link.Reliance]Gap{}, map[link.Reliance]bool{}
	}
	m.compat.gaps[part] = Gap{Part: string(part), Effect: effect, Since: time.Now()}
	if !m.compat.told[part] {
		m.compat.told[part] = true
		v := versions()
		m.logLocked(slog.LevelWarn, "the library does not know a part of this whatsmeow, and works without it",
			"part", string(part), "effect", effect, "whatsmeow", v.Whatsmeow, "library", v.Library)
	}
}

func (m *Manager) noteCompat(part link.Reliance, effect string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteCompatLocked(part, effect)
}

// restored tells of a setting of the client's that the program had changed and
// that was set back, once a setting and term.
func (a *attachment) restored(setting string) {
	m := a.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.t.restored[setting] {
		return
	}
	if a.t.restored == nil {
		a.t.restored = map[string]bool{}
	}
	a.t.restored[setting] = true
	instead := "leave it as it is: the Manager reconnects"
	switch setting {
	case link.HTTPClients:
		setting, instead = "HTTP client or proxy (SetProxy, SetWebsocketHTTPClient, …)", "pass a proxy to WithTransport"
	case "EnableDecryptedEventBuffer":
		instead = "leave it as it is: without it messages are lost"
	}
	m.logLocked(slog.LevelWarn, "the program changed a setting of its client that the Manager needs; it was set back before the attempt",
		"setting", setting, "instead", instead)
}

// compatNow is what Status shows: nil when all is well. With mu held.
func (m *Manager) compatNow() *Compat {
	if len(m.compat.gaps) == 0 {
		return nil
	}
	c := versions()
	for _, g := range m.compat.gaps {
		c.Missing = append(c.Missing, g)
	}
	slices.SortFunc(c.Missing, func(a, b Gap) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Part, b.Part))
	})
	return &c
}

// versions are those that this program was built with.
var versions = sync.OnceValue(func() Compat {
	c := Compat{Whatsmeow: "unknown", Library: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return c
	}
	for _, mod := range append([]*debug.Module{&info.Main}, info.Deps...) {
		v := mod.Version
		if mod.Replace != nil {
			v = cmp.Or(mod.Replace.Version, mod.Replace.Path)
		}
		switch v = cmp.Or(v, "(devel)"); mod.Path {
		case "go.mau.fi/whatsmeow":
			c.Whatsmeow = v
		case "github.com/wastability/wastability":
			c.Library = v
		}
	}
	return c
})
