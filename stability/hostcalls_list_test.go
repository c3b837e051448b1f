package stability_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"time"

	"go.mau.fi/whatsmeow"
	waLog "go.mau.fi/whatsmeow/util/log"
)

// hostCall is something that a program does with its own client while Run looks
// after it.
type hostCall struct {
	name string
	do   func(ctx context.Context, h *host, c *whatsmeow.Client)
	// sets: it writes plain fields of the client. Whoever does that while the client
	// lives races with whatsmeow, so the race detector sees it in setup alone.
	sets bool
	// lists: it waits for whatsmeow's list of handlers. whatsmeow's own page forbids
	// that in a handler.
	lists bool
	// ends: the account needs a new pairing behind it.
	ends bool
	// alone: beside the host's own Connect it may leave one of whatsmeow's read
	// pumps behind (internal/link says why), so no random program has it.
	alone bool
}

// socks is a proxy that leads to the simulated service. It is no proxy.Dialer of
// anybody's making.
type socks struct{ t *http.Transport }

func (s socks) Dial(network, addr string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, addr)
}

func (s socks) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.t.DialContext(ctx, network, addr)
}

var hostCalls = []hostCall{
	{name: "Disconnect", do: func(_ context.Context, _ *host, c *whatsmeow.Client) { c.Disconnect() }},
	{name: "Connect", do: func(_ context.Context, _ *host, c *whatsmeow.Client) { _ = c.Connect() }},
	{name: "Disconnect; Connect", do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.Disconnect()
		_ = c.Connect()
	}},
	{name: "Disconnect; Connect a little later", do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.Disconnect()
		time.Sleep(900 * time.Millisecond)
		_ = c.Connect()
	}},
	{name: "ConnectContext that is cancelled behind it", do: func(ctx context.Context, _ *host, c *whatsmeow.Client) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		_ = c.ConnectContext(ctx)
	}},
	{name: "Disconnect; ConnectContext for three seconds", do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.Disconnect()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		time.AfterFunc(3*time.Second, cancel)
		_ = c.ConnectContext(ctx)
	}},
	{name: "ResetConnection", do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		if m := reflect.ValueOf(c).MethodByName("ResetConnection"); m.IsValid() && m.Type().NumIn() == 0 { // newer versions
			m.Call(nil)
		}
	}},
	{name: "GetQRChannel", lists: true, do: func(ctx context.Context, _ *host, c *whatsmeow.Client) { _, _ = c.GetQRChannel(ctx) }},
	{name: "WaitForConnection", do: func(_ context.Context, _ *host, c *whatsmeow.Client) { c.WaitForConnection(2 * time.Second) }},

	{name: "SetProxy", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.SetProxy(func(*http.Request) (*url.URL, error) { return nil, errNoProxy })
	}},
	{name: "SetProxyAddress; Disconnect; Connect", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		_ = c.SetProxyAddress("http://127.0.0.1:1")
		c.Disconnect()
		_ = c.Connect()
	}},
	{name: "SetSOCKSProxy; Disconnect", sets: true, do: func(_ context.Context, h *host, c *whatsmeow.Client) {
		c.SetSOCKSProxy(socks{h.lines.record(h.w.sim.Transport("socks"))})
		c.Disconnect()
	}},
	{name: "SetWebsocketHTTPClient; Disconnect; Connect", sets: true, do: func(_ context.Context, h *host, c *whatsmeow.Client) {
		past := &http.Client{Transport: h.lines.record(h.w.sim.Transport("past"))}
		c.SetWebsocketHTTPClient(past)
		c.SetPreLoginHTTPClient(past)
		c.SetMediaHTTPClient(past)
		c.Disconnect()
		_ = c.Connect()
	}},
	{name: "EnableAutoReconnect = true", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.EnableAutoReconnect = true
	}},
	{name: "InitialAutoReconnect = true; Disconnect; Connect", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.EnableAutoReconnect, c.InitialAutoReconnect = true, true
		c.AutoReconnectHook = func(error) bool { return true }
		c.Disconnect()
		_ = c.Connect()
	}},
	{name: "DisableLoginAutoReconnect = false", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.DisableLoginAutoReconnect = false
	}},
	{name: "EnableDecryptedEventBuffer = false", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.EnableDecryptedEventBuffer = false
	}},
	{name: "RefreshCAT = nil", sets: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) { c.RefreshCAT = nil }},
	{name: "Log = another", sets: true, alone: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) { c.Log = waLog.Noop }},

	{name: "RemoveEventHandlers; AddEventHandler", lists: true, do: func(_ context.Context, h *host, c *whatsmeow.Client) {
		c.RemoveEventHandlers()
		c.AddEventHandlerWithSuccessStatus(h.handle)
	}},
	{name: "AddEventHandler; RemoveEventHandler", lists: true, do: func(_ context.Context, _ *host, c *whatsmeow.Client) {
		c.RemoveEventHandler(c.AddEventHandler(func(any) {}))
	}},

	{name: "Logout", ends: true, do: func(ctx context.Context, _ *host, c *whatsmeow.Client) { _ = c.Logout(ctx) }},
	{name: "Logout; Connect", ends: true, do: func(ctx context.Context, _ *host, c *whatsmeow.Client) {
		_ = c.Logout(ctx)
		_ = c.Connect()
	}},
	{name: "Store.Delete", ends: true, do: func(ctx context.Context, _ *host, c *whatsmeow.Client) { _ = c.Store.Delete(ctx) }},
}

func hostCallNamed(name string) hostCall {
	return hostCalls[slices.IndexFunc(hostCalls, func(c hostCall) bool { return c.name == name })]
}
