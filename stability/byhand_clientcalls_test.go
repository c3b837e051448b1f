package stability_test

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// clientCall is something that a host may do with its own client.
type clientCall struct {
	name string
	do   func(ctx context.Context, c *whatsmeow.Client)
}

// notCalled are methods that say nothing about a connection, or are asked for
// what they do.
var notCalled = []string{
	"DangerousInternals", // no promise is made
	"SetPassive",         // the service is asked to be silent
	"SetAllStores",       // newer versions: the device of another store
	"Download", "Upload", // media, by HTTP
	"Disconnect", "Logout", "Delete", "DeleteDevice", // see the tests of their own
	"Connect", "ConnectContext", "GetQRChannel", // of a client that is not connected
}

// whatsmeow's own page: it locks up if a handler does this.
var notInHandlers = []string{"AddEventHandler", "RemoveEventHandler"}

func oneOf(list []string, name string) bool {
	return slices.ContainsFunc(list, func(p string) bool { return strings.HasPrefix(name, p) })
}

// argument makes a value that a careless host might pass.
func argument(ctx context.Context, t reflect.Type) reflect.Value {
	stranger := types.NewJID("491520009999", types.DefaultUserServer)
	for _, v := range []any{stranger, []types.JID{stranger}, "x", []byte{1}, true, time.Now(), time.Second} {
		if reflect.TypeOf(v) == t {
			return reflect.ValueOf(v)
		}
	}
	switch {
	case t == reflect.TypeFor[context.Context]():
		return reflect.ValueOf(ctx)
	case t == reflect.TypeFor[io.Reader]():
		return reflect.ValueOf(strings.NewReader("x"))
	case t.Kind() == reflect.Func:
		return reflect.MakeFunc(t, func([]reflect.Value) (out []reflect.Value) {
			for i := range t.NumOut() {
				v := reflect.Zero(t.Out(i))
				if v.Kind() == reflect.Bool {
					v = reflect.ValueOf(true).Convert(t.Out(i))
				}
				out = append(out, v)
			}
			return out
		})
	case t.Kind() == reflect.Pointer:
		return reflect.New(t.Elem())
	}
	return reflect.Zero(t)
}

// callsOf are the exported methods of what get returns. A panic for want of
// sense in the arguments is the host's.
func callsOf(of string, t reflect.Type, get func(c *whatsmeow.Client) reflect.Value) (out []clientCall) {
	for i := range t.NumMethod() {
		name := t.Method(i).Name
		if oneOf(notCalled, name) {
			continue
		}
		out = append(out, clientCall{of + "." + name, func(ctx context.Context, c *whatsmeow.Client) {
			defer func() { _ = recover() }()
			m := get(c).MethodByName(name)
			var args []reflect.Value
			for j := range m.Type().NumIn() {
				if m.Type().IsVariadic() && j == m.Type().NumIn()-1 {
					break
				}
				args = append(args, argument(ctx, m.Type().In(j)))
			}
			m.Call(args)
		}})
	}
	return out
}

// clientCalls is every exported method of the client, its device and the
// device's stores.
func clientCalls() []clientCall {
	out := callsOf("Client", reflect.TypeFor[*whatsmeow.Client](), func(c *whatsmeow.Client) reflect.Value { return reflect.ValueOf(c) })
	device := reflect.TypeOf(whatsmeow.Client{}.Store)
	out = append(out, callsOf("Device", device, func(c *whatsmeow.Client) reflect.Value { return reflect.ValueOf(c.Store) })...)
	for i := range device.Elem().NumField() {
		f := device.Elem().Field(i)
		if !f.IsExported() || f.Type.Kind() != reflect.Interface || f.Type.NumMethod() == 0 || f.Name == "Log" {
			continue
		}
		out = append(out, callsOf("Device."+f.Name, f.Type, func(c *whatsmeow.Client) reflect.Value {
			return reflect.ValueOf(c.Store).Elem().Field(i).Elem()
		})...)
	}
	return out
}

// hears checks that a message arrives.
func (n *named) hears(t *testing.T, after string) {
	t.Helper()
	text := fmt.Sprintf("after %s, %d", after, len(n.texts()))
	_, err := n.w.say(text)
	require.NoError(t, err)
	start := time.Now()
	for !slices.Contains(n.texts(), text) {
		require.Less(t, time.Since(start), 30*time.Minute, "deaf after %s: %s", after, n.status().Summary)
		time.Sleep(10 * time.Millisecond)
	}
	n.w.await("connected after "+after, func() bool { return n.status().WA == reconnect.StatusConnected })
}

// cutAndHears checks that it comes back after the link was lost.
func (n *named) cutAndHears(t *testing.T, after string) {
	t.Helper()
	n.w.sim.Fault(wasim.FIN()).For(n.w.account.JID()).Now()
	time.Sleep(10 * time.Second)
	n.hears(t, after+" and a reconnect")
}

func callInTime(t *testing.T, x clientCall, c *whatsmeow.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = within(t, x.name, 5*time.Minute, func() error { x.do(ctx, c); return nil })
}

func TestNoCallOfAHostMakesItsClientDeaf(t *testing.T) {
	t.Parallel()
	// Not every query is known to the simulated service, and none has to be.
	newWorld := func(t *testing.T) *world {
		w := &world{t: t, sim: wasim.New(wasim.WithFewKeys()), memory: newServer(t)}
		w.account = w.sim.NewAccount("491520000001")
		return w
	}
	t.Run("on a live connection", func(t *testing.T) {
		someUnderRace(t)
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.named("a").run().pair()
			for i, x := range clientCalls() {
				c := a.m.Client()
				callInTime(t, x, c)
				if strings.HasSuffix(x.name, "RemoveEventHandlers") {
					c.AddEventHandlerWithSuccessStatus(a.handle)
				}
				a.hears(t, x.name)
				if i%10 == 9 || strings.Contains(x.name, "Set") || strings.Contains(x.name, "EventHandler") {
					time.Sleep(2 * time.Minute)
					a.cutAndHears(t, x.name)
				}
			}
			require.Equal(t, 1, a.setups)
			a.stop()
			w.close()
		})
	})
	t.Run("in setup", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			w.named("first").run().pair().stop()
			n := w.named("a")
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() {
				result <- n.m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
					for _, x := range clientCalls() {
						callInTime(t, x, c)
					}
					return n.setup(ctx, c)
				})
			}()
			n.ready()
			n.hears(t, "all of them")
			time.Sleep(2 * time.Minute)
			n.cutAndHears(t, "all of them")
			cancel()
			require.NoError(t, <-result)
			require.NoError(t, n.m.Close(t.Context()))
			w.close()
		})
	})
	t.Run("in a handler", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.named("a").run().pair()
			var todo *clientCall
			a.mu.Lock()
			a.onEvent = func(evt any) {
				if _, ok := evt.(*events.Message); ok && todo != nil {
					x := *todo
					todo = nil
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					x.do(ctx, a.m.Client())
				}
			}
			a.mu.Unlock()
			for i, x := range clientCalls() {
				if _, method, _ := strings.Cut(x.name, "."); oneOf(notInHandlers, method) {
					continue
				}
				todo = &x
				a.hears(t, x.name)
				a.hears(t, x.name)
				if i%20 == 19 {
					time.Sleep(2 * time.Minute)
					a.cutAndHears(t, x.name)
				}
			}
			a.stop()
			w.close()
		})
	})
}

// A call that ends the session on purpose is followed by a new code, never by a
// connection that looks well and hears nothing.
func TestSessionThatTheHostEndsIsOverEverywhere(t *testing.T) {
	t.Parallel()
	for _, x := range []clientCall{
		{"Logout", func(ctx context.Context, c *whatsmeow.Client) { _ = c.Logout(ctx) }},
		{"Store.Delete", func(ctx context.Context, c *whatsmeow.Client) { _ = c.Store.Delete(ctx) }},
		{"Container.DeleteDevice", func(ctx context.Context, c *whatsmeow.Client) { _ = c.Store.Container.DeleteDevice(ctx, c.Store) }},
		{"Disconnect", func(_ context.Context, c *whatsmeow.Client) { c.Disconnect() }},
	} {
		for _, place := range []string{"live", "handler", "setup"} {
			t.Run(x.name+", "+place, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.named("a")
					ctx, cancel := context.WithCancel(t.Context())
					result := make(chan error, 1)
					armed := false
					go func() {
						result <- a.m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
							if armed && place == "setup" {
								armed = false
								callInTime(t, x, c)
							}
							return a.setup(ctx, c)
						})
					}()
					a.pair()
					time.Sleep(2 * time.Minute)
					device := w.device()
					switch place {
					case "live":
						callInTime(t, x, a.m.Client())
					case "handler":
						a.mu.Lock()
						armed = true
						a.onEvent = func(evt any) {
							if _, ok := evt.(*events.Message); ok && armed {
								armed = false
								x.do(context.Background(), a.m.Client())
							}
						}
						a.mu.Unlock()
						_, err := w.say("end it")
						require.NoError(t, err)
					case "setup":
						armed = true
						cancel() // the next Run has a client of its own
						require.NoError(t, <-result)
						ctx, cancel = context.WithCancel(t.Context())
						go func() {
							result <- a.m.Run(ctx, func(_ context.Context, c *whatsmeow.Client) error {
								if armed {
									armed = false
									callInTime(t, x, c)
								}
								return a.setup(ctx, c)
							})
						}()
					}
					time.Sleep(time.Minute)
					if x.name == "Disconnect" {
						require.Equal(t, reconnect.StatusConnected, a.status().WA, "nothing ended but a connection")
					} else if a.status().WA == reconnect.StatusConnected && place == "setup" && x.name == "Logout" {
						a.m.Reconnect() // the session is there
					} else {
						require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA, a.status().Summary)
						w.account.Phone().RemoveDevice(device)
						for len(a.codes) > 1 {
							<-a.codes
						}
						a.pair()
					}
					a.ready()
					a.mu.Lock()
					a.onEvent = nil
					a.mu.Unlock()
					a.hears(t, x.name)
					cancel()
					require.NoError(t, <-result)
					require.NoError(t, a.m.Close(t.Context()))
					w.close()
				})
			})
		}
	}
}
