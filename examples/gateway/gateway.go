package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

// gateway keeps the accounts of a directory connected.
type gateway struct {
	*http.ServeMux
	dir   directory
	token string
	opts  []stability.Option

	running  sync.WaitGroup
	mu       sync.Mutex
	ctx      context.Context // of run; nil before and after
	accounts map[string]*account
}

type account struct {
	manager *stability.Manager
	admin   http.Handler
	stop    context.CancelFunc
	ended   chan struct{}
}

var (
	goodID     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	errRemoved = errors.New("the account was removed")
)

func newGateway(dir directory, token string, opts ...stability.Option) (*gateway, error) {
	if len(token) < 16 {
		return nil, errors.New("no token: set WASTABILITY_ADMIN_TOKEN to a random text of 16 bytes or more")
	}
	g := &gateway{ServeMux: http.NewServeMux(), dir: dir, token: token, opts: opts, accounts: map[string]*account{}}
	for pattern, h := range map[string]func(*http.Request) (any, error){
		"POST /accounts": g.add, "GET /accounts": g.list, "POST /accounts/{id}/messages": g.send, "DELETE /accounts/{id}": g.remove,
	} {
		g.HandleFunc(pattern, g.guarded(h))
	}
	g.HandleFunc("/accounts/{id}/admin/", func(w http.ResponseWriter, r *http.Request) { // it asks for the token itself
		if a := g.get(r.PathValue("id")); a != nil {
			http.StripPrefix("/accounts/"+r.PathValue("id")+"/admin", a.admin).ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
	return g, nil
}

// run keeps every account connected until ctx ends, and then hands them over.
// It looks again each minute, since another replica may have added one.
func (g *gateway) run(ctx context.Context) error {
	g.mu.Lock()
	g.ctx = ctx
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.ctx = nil // nothing is started from now on
		g.mu.Unlock()
		g.running.Wait()
	}()
	for {
		ids, err := g.dir.list(ctx)
		for _, id := range ids {
			err = errors.Join(err, g.start(id))
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("not every account could be started; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Minute):
		}
	}
}

// start begins to keep an account connected. It is no error when that is so already.
func (g *gateway) start(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil || g.ctx.Err() != nil {
		return errors.New("the gateway is not running")
	}
	if g.accounts[id] != nil {
		return nil
	}
	backend, err := g.dir.open(id)
	if err != nil {
		return err
	}
	manager, err := stability.New(append([]stability.Option{
		stability.WithBackend(backend), stability.WithLogger(slog.With("account", id)),
		// A loop of one account must not end the process of all.
		stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
	}, g.opts...)...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	admin, err := adminhttp.New(manager, adminhttp.WithToken(g.token))
	if err != nil {
		return errors.Join(err, manager.Close(g.ctx))
	}
	base := g.ctx
	ctx, stop := context.WithCancel(base)
	a := &account{manager: manager, admin: admin, stop: stop, ended: make(chan struct{})}
	g.accounts[id] = a
	g.running.Go(func() {
		defer close(a.ended)
		err := manager.Run(ctx, func(ctx context.Context, c *whatsmeow.Client) error {
			// A replica that stood by gets the lock when an account is removed.
			if ids, err := g.dir.list(ctx); err != nil || !slices.Contains(ids, id) {
				return errors.Join(errRemoved, err)
			}
			c.AddEventHandlerWithSuccessStatus(func(evt any) bool { return received(id, evt) })
			return nil
		})
		err = errors.Join(err, manager.Close(context.Background()))
		if errors.Is(err, errRemoved) { // by another replica, and this one has just begun it anew
			g.forget(id)
			err = g.dir.destroy(base, id)
		}
		if err != nil && ctx.Err() == nil {
			slog.Error("an account stopped", "account", id, "error", err)
		}
	})
	return nil
}

// received is where your program goes on. It returns false when a message could
// not be handled: then it is not acknowledged, and delivered again.
func received(account string, evt any) bool {
	if msg, ok := evt.(*events.Message); ok {
		slog.Info("received", "account", account, "message", msg.Info.ID)
	}
	return true
}

func (g *gateway) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.accounts, id)
}

func (g *gateway) get(id string) *account {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.accounts[id]
}

// answer is an error with a status of its own.
type answer struct {
	error
	code int
}

func refuse(code int, text string) error { return answer{errors.New(text), code} }

// guarded asks for the token, and answers in JSON.
func (g *gateway) guarded(h func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := any(nil), refuse(http.StatusUnauthorized, "the header "+adminhttp.TokenHeader+" must carry the token")
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(adminhttp.TokenHeader)), []byte(g.token)) == 1 {
			r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
			result, err = h(r)
		}
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			a := answer{err, http.StatusInternalServerError}
			_ = errors.As(err, &a)
			w.WriteHeader(a.code)
			result = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(result)
	}
}

func (g *gateway) add(r *http.Request) (any, error) {
	var in struct{ ID string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !goodID.MatchString(in.ID) {
		return nil, refuse(http.StatusBadRequest, `pass {"id": "…"}: lower-case letters, digits, dots, dashes; 64 at most`)
	}
	if err := g.dir.add(r.Context(), in.ID); err != nil {
		return nil, err
	}
	return map[string]string{"page": "/accounts/" + in.ID + "/admin/"}, g.start(in.ID)
}

func (g *gateway) list(*http.Request) (any, error) {
	g.mu.Lock()
	accounts := maps.Clone(g.accounts)
	g.mu.Unlock()
	type line struct {
		ID, Status, Summary, Holder string
		Here                        bool // this process holds it
	}
	lines := []line{}
	for _, id := range slices.Sorted(maps.Keys(accounts)) {
		st := accounts[id].manager.Status()
		lines = append(lines, line{id, string(st.WA), st.Summary, st.LockHolder, st.Mode == stability.ModeActive})
	}
	return lines, nil
}

// held is the account of a request, if this process holds it.
func (g *gateway) held(r *http.Request) (*account, error) {
	a := g.get(r.PathValue("id"))
	if a == nil {
		return nil, refuse(http.StatusNotFound, "there is no such account")
	}
	if st := a.manager.Status(); st.Mode != stability.ModeActive {
		return nil, refuse(http.StatusConflict, fmt.Sprintf("this process does not hold the account: ask the holder, %q", st.LockHolder))
	}
	return a, nil
}

func (g *gateway) send(r *http.Request) (any, error) {
	a, err := g.held(r)
	if err != nil {
		return nil, err
	}
	var in struct{ To, Text string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.To == "" || in.Text == "" {
		return nil, refuse(http.StatusBadRequest, `pass {"to": "a phone number", "text": "…"}`)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	if _, err := a.manager.WaitReady(ctx); err != nil {
		return nil, refuse(http.StatusServiceUnavailable, a.manager.Status().Summary)
	}
	sent, err := a.manager.Send(ctx, types.NewJID(in.To, types.DefaultUserServer), &waE2E.Message{Conversation: proto.String(in.Text)})
	return map[string]string{"id": sent.ID}, err
}

// remove logs the account out if the phone can be told, and removes it for good.
func (g *gateway) remove(r *http.Request) (any, error) {
	a, err := g.held(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute) // not half of it
	defer cancel()
	id := r.PathValue("id")
	out := a.manager.Logout(ctx)
	if err := g.dir.delist(ctx, id); err != nil {
		return nil, err
	}
	a.stop()
	<-a.ended
	g.forget(id)
	return map[string]bool{"loggedOutOnThePhone": out == nil}, g.dir.destroy(ctx, id)
}
