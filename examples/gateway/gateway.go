// Command gateway keeps many accounts connected in one process, and adds,
// pairs, lists and removes them over HTTP. It is what you copy into a service
// with more than one number.
//
//	WASTABILITY_ADMIN_TOKEN=... gateway [-dir accounts | -postgres DSN]
//
//	POST   /accounts                {"id": "support"}               adds an account
//	GET    /accounts                                                lists them, and how each is
//	GET    /accounts/{id}/admin/                                    the page of one: ask for a code there (Show a code), and scan it
//	POST   /accounts/{id}/messages  {"to": "4915…", "text": "Hi"}   sends
//	DELETE /accounts/{id}                                           logs out, and removes it for good
//
// Every request carries the token in the header X-Admin-Token. The list of
// accounts is the folder -dir; with -postgres their sessions are in a database.
package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/postgresbackend"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	dir := flag.String("dir", "accounts", "the folder with a folder for each account")
	dsn := flag.String("postgres", "", "keep the sessions in this Postgres database instead of in files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := run(ctx, *addr, *dir, *dsn); err != nil {
		slog.Error("the gateway stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, dir, dsn string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	open := inFiles(dir)
	if dsn != "" {
		db, err := postgresbackend.Open(ctx, dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		if err := db.Migrate(ctx); err != nil {
			return err
		}
		open = db.Account
	}
	g, err := newGateway(ctx, dir, open, os.Getenv("WASTABILITY_ADMIN_TOKEN"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(l)
	g.wait()
	return server.Close()
}

func inFiles(dir string) func(id string) (stability.Backend, error) {
	return func(id string) (stability.Backend, error) {
		return localbackend.Open(filepath.Join(dir, id, "wastability.db"))
	}
}

// gateway keeps many accounts connected. Their list is a folder with a folder for
// each; where their data are is for open to say.
type gateway struct {
	*http.ServeMux
	dir, token string
	open       func(id string) (stability.Backend, error)
	opts       []stability.Option
	ctx        context.Context // when it ends, so do all accounts
	running    sync.WaitGroup
	mu         sync.Mutex
	accounts   map[string]*account
}

type account struct {
	manager *stability.Manager
	admin   http.Handler
}

var goodID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// newGateway keeps every account of the folder connected until ctx ends.
func newGateway(ctx context.Context, dir string, open func(string) (stability.Backend, error), token string, opts ...stability.Option) (*gateway, error) {
	if len(token) < 16 {
		return nil, errors.New("no token: set WASTABILITY_ADMIN_TOKEN to a random text of 16 bytes or more")
	}
	g := &gateway{ServeMux: http.NewServeMux(), ctx: ctx, dir: dir, open: open, token: token, opts: opts, accounts: map[string]*account{}}
	for pattern, h := range map[string]func(*http.Request) (any, error){
		"POST /accounts": g.add, "GET /accounts": g.list, "POST /accounts/{id}/messages": g.send, "DELETE /accounts/{id}": g.remove,
	} {
		g.HandleFunc(pattern, g.guarded(h))
	}
	g.HandleFunc("/accounts/{id}/admin/", func(w http.ResponseWriter, r *http.Request) { // it asks for the token itself
		if a, _ := g.of(r); a != nil {
			http.StripPrefix("/accounts/"+r.PathValue("id")+"/admin", a.admin).ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
	found, _ := filepath.Glob(filepath.Join(dir, "[a-z0-9]*")) // an error would be about the pattern
	for _, path := range found {
		if err := g.start(filepath.Base(path)); err != nil {
			slog.Error("an account could not be started", "account", filepath.Base(path), "error", err)
		}
	}
	return g, nil
}

// wait returns when every account was handed over.
func (g *gateway) wait() {
	<-g.ctx.Done()
	g.mu.Lock() // nothing is started any more
	defer g.mu.Unlock()
	g.running.Wait()
}

// start begins to keep an account connected. It is no error when that is so already.
func (g *gateway) start(id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.accounts[id] != nil || g.ctx.Err() != nil {
		return g.ctx.Err()
	}
	backend, err := g.open(id)
	if err != nil {
		return err
	}
	manager, err := stability.New(append([]stability.Option{
		stability.WithBackend(backend), stability.WithLogger(slog.With("account", id)),
		// A loop of one account must not end the process of all.
		stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		// No code to scan before somebody opens the page and asks for one.
		stability.WithPairingOnRequest(),
	}, g.opts...)...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	admin, err := adminhttp.New(manager, adminhttp.WithToken(g.token))
	if err != nil {
		return errors.Join(err, manager.Close(g.ctx))
	}
	g.accounts[id] = &account{manager, admin}
	g.running.Go(func() {
		defer admin.Close()
		err := manager.Run(g.ctx, func(_ context.Context, c *whatsmeow.Client) error {
			c.AddEventHandlerWithSuccessStatus(func(evt any) bool { return received(id, evt) })
			return nil
		})
		if err = errors.Join(err, manager.Close(context.Background())); err != nil && !errors.Is(err, stability.ErrClosed) {
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

// answer is an error with a status of its own.
type answer struct {
	code int
	error
}

func refuse(code int, text string) error { return answer{code, errors.New(text)} }

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
			a := answer{http.StatusInternalServerError, err}
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
	if err := os.MkdirAll(filepath.Join(g.dir, in.ID), 0o700); err != nil {
		return nil, err
	}
	return map[string]string{"page": "/accounts/" + in.ID + "/admin/"}, g.start(in.ID)
}

func (g *gateway) list(*http.Request) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lines := []map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(g.accounts)) {
		st := g.accounts[id].manager.Status()
		lines = append(lines, map[string]string{"id": id, "status": string(st.WA), "summary": st.Summary})
	}
	return lines, nil
}

// of is the account that a request is about.
func (g *gateway) of(r *http.Request) (*account, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.accounts[r.PathValue("id")]; a != nil {
		return a, nil
	}
	return nil, refuse(http.StatusNotFound, "there is no such account")
}

func (g *gateway) send(r *http.Request) (any, error) {
	a, err := g.of(r)
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
	a, err := g.of(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Minute) // not half of it
	defer cancel()
	id := r.PathValue("id")
	out := a.manager.Logout(ctx)
	_ = a.manager.Close(ctx) // if it fails, so does what comes next
	backend, err := g.open(id)
	if err == nil {
		err = errors.Join(backend.Destroy(ctx), backend.Close())
	}
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	delete(g.accounts, id)
	g.mu.Unlock()
	return map[string]bool{"loggedOutOnThePhone": out == nil}, os.RemoveAll(filepath.Join(g.dir, id))
}
