package stability

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/appstate"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/link"
)

// errHealing is the cause of a term's end when a reconnect loop is broken.
var errHealing = errors.New("stability: breaking a reconnect loop")

// recordRestart writes the state down as it is behind the restart that breaks
// a reconnect loop.
func (t *term) recordRestart(st reconnect.State) error {
	t.m.mu.Lock()
	st = t.sign(st)
	t.m.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.patience, autoheal.StepTimeout)
	defer cancel()
	return t.m.cfg.backend.State.Save(ctx, t.hold.Epoch(), st)
}

// lastWords lets observers and sinks pass on what they have been told, before
// the process ends under them.
func (m *Manager) lastWords() {
	ctx, cancel := context.WithTimeout(context.Background(), autoheal.StepTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range m.can.flushers {
		wg.Go(func() {
			if err := f.Flush(ctx); err != nil {
				m.cfg.logger.Warn("a sink did not deliver everything before the exit", "error", err)
			}
		})
	}
	flushed := make(chan struct{})
	go func() { wg.Wait(); close(flushed) }()
	select {
	case <-flushed:
	case <-ctx.Done():
	}
	select {
	case <-m.notify.drained():
	case <-time.After(observerGrace):
	}
}

// resyncBudget bounds a full app-state sync.
const resyncBudget = 2 * time.Minute

// resync fetches the whole app state again, after the service has ended
// several connections in a row without saying why: a state that went wrong is
// one thing that it could not tell. Stored rows that do not parse were set
// aside by the store already, and are rebuilt by the protocol.
func (a *attachment) resync(l *link.Conn) {
	ctx, cancel := context.WithTimeout(a.t.patience, resyncBudget)
	defer cancel()
	a.m.cfg.logger.Info("repairing what is stored here: fetching the whole app state again")
	for _, name := range appstate.AllPatchNames {
		if isClosed(l.Down()) {
			return
		}
		if err := a.client.FetchAppState(ctx, name, true, false); err != nil && !isClosed(l.Down()) {
			a.m.cfg.logger.Warn("a part of the app state was not fetched", "collection", string(name), "error", err)
		}
	}
}

// refreshVersion looks up the current client version before the next attempt,
// if the last one was refused as outdated and the host wants that.
func (a *attachment) refreshVersion() {
	m := a.m
	m.mu.Lock()
	outdated := a.t.core.State().LastDisconnectReason == reconnect.ReasonClientOutdated
	m.mu.Unlock()
	if !outdated || !m.cfg.versionRefresh {
		return
	}
	ctx, cancel := context.WithTimeout(a.t.patience, ioTimeout)
	defer cancel()
	lookup, done := m.webTransport()
	defer done()
	version, err := whatsmeow.GetLatestVersion(ctx, &http.Client{Transport: lookup})
	if err != nil {
		m.cfg.logger.Warn("the current client version could not be looked up", "error", err)
		return
	}
	m.cfg.logger.Info("using the current client version", "version", version.String())
	m.version.Store(version)
}

// webTransport is what a plain request goes through: WithTransport's settings,
// or the default of the process, whatever a host has put around that. done
// closes what was opened for it.
func (m *Manager) webTransport() (t http.RoundTripper, done func()) {
	own := m.cfg.transport
	if own == nil {
		def, ok := http.DefaultTransport.(*http.Transport)
		if !ok {
			return http.DefaultTransport, func() {}
		}
		own = def
	}
	own = own.Clone()
	return own, own.CloseIdleConnections
}

// useVersion lets the client log in with the version that was looked up. It is
// set on the client, since the version of the process is read without a lock
// by every client that logs in, and older versions of whatsmeow do not use it
// for the login.
func (m *Manager) useVersion(c *whatsmeow.Client) {
	if !m.cfg.versionRefresh {
		return
	}
	base := c.GetClientPayload
	if base == nil {
		base = func() *waWa6.ClientPayload { return c.Store.GetClientPayload() }
	}
	c.GetClientPayload = func() *waWa6.ClientPayload {
		p := base()
		v := m.version.Load()
		if v == nil || p.GetUserAgent() == nil || v.LessThan(payloadVersion(p)) {
			return p
		}
		p.UserAgent.AppVersion = v.ProtoAppVersion()
		if reg := p.GetDevicePairingData(); reg != nil {
			hash := v.Hash()
			reg.BuildHash = hash[:]
		}
		return p
	}
}

func payloadVersion(p *waWa6.ClientPayload) store.WAVersionContainer {
	v := p.GetUserAgent().GetAppVersion()
	return store.WAVersionContainer{v.GetPrimary(), v.GetSecondary(), v.GetTertiary()}
}

// errDefaultTransport is what whatsmeow makes a panic of.
var errDefaultTransport = errors.New("stability: whatsmeow makes no client while http.DefaultTransport is not an *http.Transport: " +
	"wrap the transport of the http.Client that needs it, not the default of the whole process")

// newClient makes a client on d, with the host's settings.
func (m *Manager) newClient(d *store.Device) (*whatsmeow.Client, error) {
	if _, ok := http.DefaultTransport.(*http.Transport); !ok {
		return nil, errDefaultTransport
	}
	c := m.cfg.makeClient(d, m.Logger(nil))
	switch {
	case c == nil:
		return nil, fmt.Errorf("stability: WithNewClient's function returned no client")
	case c.Store != d:
		return nil, fmt.Errorf("stability: WithNewClient's function made a client on another device than the one it was given: %w", ErrWrongDevice)
	}
	return c, nil
}
