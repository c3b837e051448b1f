package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// served is a gateway that runs, and its address.
type served struct {
	t    *testing.T
	url  string
	stop func()
}

func start(t *testing.T, service *wasim.Service, dir string, open func(string) (stability.Backend, error)) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g, err := newGateway(ctx, dir, open, token, stability.WithTransport(service.Transport()))
	require.NoError(t, err)
	server := httptest.NewServer(g)
	r := &served{t: t, url: server.URL}
	r.stop = sync.OnceFunc(func() {
		cancel()
		g.wait()
		server.Close()
	})
	t.Cleanup(r.stop)
	return r
}

// ask sends a request and decodes the answer into out, unless that is nil.
func (r *served) ask(method, path string, in, out any) (status int) {
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
	ID, Status, Summary string
}

func (r *served) list() (lines []listed) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.ask("GET", "/accounts", nil, &lines))
	return lines
}

// connected are the accounts that this served keeps connected.
func (r *served) connected() (ids []string) {
	for _, l := range r.list() {
		if l.Status == "CONNECTED" {
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
func (r *served) pair(id string, phone *wasim.Phone) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.ask("POST", "/accounts", map[string]string{"id": id}, nil))
	await(r.t, "it waits for somebody who asks", func() bool {
		return slices.ContainsFunc(r.list(), func(l listed) bool {
			return l.ID == id && strings.Contains(l.Summary, "Nothing happens until somebody asks")
		})
	})
	require.Equal(r.t, http.StatusAccepted, r.ask("POST", "/accounts/"+id+"/admin/api/whatsapp/reconnect", nil, nil))
	var shown struct{ Code string }
	await(r.t, "a code", func() bool {
		return r.ask("GET", "/accounts/"+id+"/admin/api/whatsapp/qr", nil, &shown) == http.StatusOK
	})
	require.NoError(r.t, phone.Scan(shown.Code))
}

// Many accounts are added, paired, send, and come back after a restart. One that
// is logged out by its phone, and one that is removed, harm no other.
func TestManyAccountsLiveInOneProcess(t *testing.T) {
	t.Parallel()
	for name, opens := range map[string]func(t *testing.T, dir string) func(string) (stability.Backend, error){
		"files":    func(_ *testing.T, dir string) func(string) (stability.Backend, error) { return inFiles(dir) },
		"postgres": func(t *testing.T, _ string) func(string) (stability.Backend, error) { return inPostgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := wasim.New(wasim.WithFewKeys())
			defer service.Close()
			dir := t.TempDir()
			open := opens(t, dir)
			r := start(t, service, dir, open)
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
			r = start(t, service, dir, open)
			await(t, "the rest is back", func() bool { return slices.Equal(rest, r.connected()) })
			require.GreaterOrEqual(t, service.Dials()-logins, len(rest))
			require.Len(t, r.list(), n-1, "what was removed does not come back")
		})
	}
}

func TestRequestsAreRefusedWithAReason(t *testing.T) {
	for _, short := range []string{"", "too short"} {
		_, err := newGateway(t.Context(), t.TempDir(), inFiles("x"), short)
		require.ErrorContains(t, err, "WASTABILITY_ADMIN_TOKEN")
	}

	service := wasim.New(wasim.WithFewKeys())
	defer service.Close()
	dir := filepath.Join(t.TempDir(), "not there yet")
	r := start(t, service, dir, inFiles(dir))
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

func inPostgres(t *testing.T) func(string) (stability.Backend, error) {
	t.Helper()
	db, err := postgresbackend.Open(t.Context(), postgrestest.Need(t).DSN(), postgresbackend.WithSchema("gateway_"+strings.ToLower(rand.Text())))
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, db.Migrate(t.Context()))
	return db.Account
}

func TestTheProgramBeginsAndEnds(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), "127.0.0.1:0", t.TempDir(), ""), "WASTABILITY_ADMIN_TOKEN")
	t.Setenv("WASTABILITY_ADMIN_TOKEN", token)
	for _, dsn := range []string{"", postgrestest.Need(t).DSN()} {
		port, err := stabilitytest.FreePort()
		require.NoError(t, err)
		addr := "127.0.0.1:" + port
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
