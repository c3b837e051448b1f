package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/postgresbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(postgrestest.Main(m).Run())
}

const token = "a long random text"

// replica is a gateway that runs, and its address.
type replica struct {
	t    *testing.T
	url  string
	stop func()
}

func start(t *testing.T, service *wasim.Service, dir directory, name string) *replica {
	t.Helper()
	g, err := newGateway(dir, token, stability.WithTransport(service.Transport(name)), stability.WithInstanceID(name))
	require.NoError(t, err)
	server := httptest.NewServer(g)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- g.run(ctx) }()
	r := &replica{t: t, url: server.URL}
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ran)
		server.Close()
	})
	t.Cleanup(r.stop)
	return r
}

// ask sends a request and decodes the answer into out, unless that is nil.
func (r *replica) ask(method, path string, in, out any) (status int) {
	r.t.Helper()
	body, err := json.Marshal(in)
	require.NoError(r.t, err)
	req, err := http.NewRequest(method, r.url+path, bytes.NewReader(body))
	require.NoError(r.t, err)
	req.Header.Set(adminhttp.TokenHeader, token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	if out != nil {
		require.NoError(r.t, json.Unmarshal(answer, out), string(answer))
	}
	return resp.StatusCode
}

type listed struct {
	ID, Status, Summary, Holder string
	Here                        bool
}

func (r *replica) list() (lines []listed) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.ask("GET", "/accounts", nil, &lines))
	return lines
}

// connected are the accounts that this replica keeps connected.
func (r *replica) connected() (ids []string) {
	for _, l := range r.list() {
		if l.Here && l.Status == "CONNECTED" {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		require.False(t, time.Now().After(end), "never happened: "+what)
	}
}

// pair adds an account and scans its code with a phone.
func (r *replica) pair(id string, phone *wasim.Phone) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.ask("POST", "/accounts", map[string]string{"id": id}, nil))
	var shown struct{ Code string }
	await(r.t, "a code", func() bool {
		return r.ask("GET", "/accounts/"+id+"/admin/api/whatsapp/qr", nil, &shown) == http.StatusOK
	})
	require.NoError(r.t, phone.Scan(shown.Code))
}

// Many accounts are added, paired, send, and come back after a restart. One that
// is logged out by its phone, and one that is removed, harm no other.
func TestManyAccountsLiveInOneProcess(t *testing.T) {
	for name, open := range map[string]func(*testing.T) directory{
		"files":    func(t *testing.T) directory { return folder(t.TempDir()) },
		"postgres": inPostgres,
	} {
		t.Run(name, func(t *testing.T) {
			service := wasim.New(wasim.WithFewKeys())
			defer service.Close()
			dir := open(t)
			r := start(t, service, dir, "one")
			n := stabilitytest.Pick(10, 50)
			var ids []string
			accounts := map[string]*wasim.Account{}
			for i := range n {
				id := fmt.Sprintf("account-%02d", i)
				ids = append(ids, id)
				accounts[id] = service.NewAccount(fmt.Sprintf("4915200001%02d", i))
				r.pair(id, accounts[id].Phone())
			}
			await(t, "all are connected", func() bool { return slices.Equal(ids, r.connected()) })

			ada, err := service.NewContact(t.Context(), "491520000200")
			require.NoError(t, err)
			var sending sync.WaitGroup
			for _, id := range ids {
				sending.Go(func() {
					var sent struct{ ID string }
					code := r.ask("POST", "/accounts/"+id+"/messages", map[string]string{"to": ada.Account().PhoneNumber(), "text": "from " + id}, &sent)
					if code != http.StatusOK || sent.ID == "" {
						t.Errorf("%s: status %d", id, code)
					}
				})
			}
			sending.Wait()
			await(t, "all messages", func() bool { return len(ada.Texts()) == n })
			texts := ada.Texts()
			slices.Sort(texts)
			for i, id := range ids {
				require.Equal(t, "from "+id, texts[i])
			}

			// The phone removes the device of the first, an operator the second.
			first, second, rest := ids[0], ids[1], ids[2:]
			accounts[first].Phone().RemoveDevice(accounts[first].Devices()[0])
			var removed struct{ LoggedOutOnThePhone bool }
			require.Equal(t, http.StatusOK, r.ask("DELETE", "/accounts/"+second, nil, &removed))
			require.True(t, removed.LoggedOutOnThePhone)
			require.Empty(t, accounts[second].Devices())
			require.Equal(t, http.StatusNotFound, r.ask("DELETE", "/accounts/"+second, nil, nil))
			await(t, "the first waits for a scan", func() bool { return r.list()[0].Status == "NEEDS_PAIRING" })
			require.Equal(t, rest, r.connected())
			require.Len(t, r.list(), n-1)

			r.stop()
			logins := service.Dials()
			r = start(t, service, dir, "one")
			await(t, "the rest is back", func() bool { return slices.Equal(rest, r.connected()) })
			require.GreaterOrEqual(t, service.Dials()-logins, len(rest))
			require.Len(t, r.list(), n-1, "what was removed does not come back")
		})
	}
}

func TestRequestsAreRefusedWithAReason(t *testing.T) {
	for _, short := range []string{"", "too short"} {
		_, err := newGateway(folder(t.TempDir()), short)
		require.ErrorContains(t, err, "WASTABILITY_ADMIN_TOKEN")
	}

	service := wasim.New(wasim.WithFewKeys())
	defer service.Close()
	r := start(t, service, folder(filepath.Join(t.TempDir(), "not there yet")), "one")
	for _, c := range []struct {
		method, path string
		in           any
		code         int
		says         string
	}{
		{"POST", "/accounts", map[string]string{"id": "../../etc"}, 400, "lower-case letters"},
		{"POST", "/accounts", "no object", 400, "lower-case letters"},
		{"POST", "/accounts/nobody/messages", map[string]string{"to": "1", "text": "x"}, 404, "no such account"},
		{"DELETE", "/accounts/nobody", nil, 404, "no such account"},
	} {
		var answer struct{ Error string }
		require.Equal(t, c.code, r.ask(c.method, c.path, c.in, &answer), c.path)
		require.Contains(t, answer.Error, c.says)
	}
	for _, path := range []string{"/accounts", "/accounts/nobody/messages"} {
		resp, err := http.Post(r.url+path, "application/json", bytes.NewReader(nil))
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "without the token")
	}
	require.Empty(t, r.list())
}

func inPostgres(t *testing.T) directory {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(postgrestest.Need(t).DSN())
	require.NoError(t, err)
	name := "gateway_" + strings.ToLower(rand.Text())
	root, err := pgx.ConnectConfig(t.Context(), cfg.ConnConfig)
	require.NoError(t, err)
	_, err = root.Exec(t.Context(), "CREATE DATABASE "+name)
	require.NoError(t, errors.Join(err, root.Close(t.Context())))
	cfg.ConnConfig.Database = name
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	db, err := postgresbackend.Open(t.Context(), pool)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close(); pool.Close() })
	dir, err := newTable(t.Context(), pool, db)
	require.NoError(t, err)
	return dir
}

// Two replicas share a database: one holds each account, a request to the other
// one says who, and when it ends the other one holds all.
func TestReplicasHoldEachAccountOnce(t *testing.T) {
	service := wasim.New(wasim.WithFewKeys())
	defer service.Close()
	dir := inPostgres(t)
	one := start(t, service, dir, "one")
	accounts := []*wasim.Account{service.NewAccount("491520000301"), service.NewAccount("491520000302")}
	one.pair("a", accounts[0].Phone())
	one.pair("b", accounts[1].Phone())
	await(t, "both are connected", func() bool { return len(one.connected()) == 2 })

	two := start(t, service, dir, "two")
	await(t, "the second replica stands by", func() bool {
		lines := two.list()
		return len(lines) == 2 && lines[0].Holder == "one" && lines[1].Holder == "one"
	})
	require.Empty(t, two.connected())
	var answer struct{ Error string }
	require.Equal(t, http.StatusConflict, two.ask("DELETE", "/accounts/a", nil, &answer))
	require.Contains(t, answer.Error, `"one"`)

	// The replica that stands by does not begin what the other one removes.
	require.Equal(t, http.StatusOK, one.ask("DELETE", "/accounts/a", nil, nil))
	require.Empty(t, accounts[0].Devices())
	ids, err := dir.list(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, ids)
	await(t, "it is gone from both", func() bool {
		var left []string
		for id, err := range dir.(table).db.Accounts(t.Context()) {
			require.NoError(t, err)
			left = append(left, id)
		}
		return slices.Equal([]string{"b"}, left) && len(one.list()) == 1 && len(two.list()) == 1
	})

	one.stop()
	await(t, "the second replica has it", func() bool { return slices.Equal([]string{"b"}, two.connected()) })
	require.Len(t, accounts[1].Devices(), 1)
}

func TestTheProgramBeginsAndEnds(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), "127.0.0.1:0", t.TempDir(), ""), "WASTABILITY_ADMIN_TOKEN")
	t.Setenv("WASTABILITY_ADMIN_TOKEN", token)
	for _, dsn := range []string{"", postgrestest.Need(t).DSN()} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := l.Addr().String()
		require.NoError(t, l.Close())
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- run(ctx, addr, t.TempDir(), dsn) }()
		await(t, "it answers", func() bool {
			resp, err := http.Get("http://" + addr + "/accounts")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil && resp.StatusCode == http.StatusUnauthorized
		})
		cancel()
		require.NoError(t, <-ran)
	}
	require.Error(t, run(t.Context(), "127.0.0.1:0", "", "postgres://nobody@127.0.0.1:1/nothing"))
}
