/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the stock script "vif-bridge" does for an interface on a Linux bridge that nothing else is
 * wanted of. */
#include "hv/xen/hotplug.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <glob.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define HOOKS     STOCK_SCRIPTS "vif-post.d/*.hook"
#define BRIDGE_NF "/proc/sys/net/bridge/bridge-nf-call-iptables"

static bool has_hooks(void)
{
    glob_t found;
    bool any = !glob(HOOKS, 0, NULL, &found);

    globfree(&found);
    return any;
}

/* With it the stock script opens the firewall for the interface. */
static bool bridge_is_filtered(void)
{
    CLEANUP_CLOSE int fd = open(BRIDGE_NF, O_RDONLY | O_CLOEXEC);
    char on = '0';

    return fd >= 0 && (read(fd, &on, 1) != 1 || on != '0');
}

static bool is_bridge(const char *name)
{
    char path[200];

    if (strchr(name, '/') || strlen(name) >= IFNAMSIZ)
        return false;
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", name);
    return !access(path, F_OK);
}

static void name_request(struct ifreq *request, const char *name)
{
    memset(request, 0, sizeof(*request));
    memcpy(request->ifr_name, name, strnlen(name, IFNAMSIZ - 1));
}

static bool set_flags(int sock, const char *name, bool up)
{
    struct ifreq request;

    name_request(&request, name);
    if (ioctl(sock, SIOCGIFFLAGS, &request))
        return false;
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    return !ioctl(sock, SIOCSIFFLAGS, &request);
}

/* The highest unicast address, so that the bridge does not take the interface's for its own. */
static void set_address(int sock, const char *name)
{
    struct ifreq request;

    name_request(&request, name);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, "\xfe\xff\xff\xff\xff\xff", 6);
    (void)ioctl(sock, SIOCSIFHWADDR, &request);
}

static int wanted_mtu(struct xs_handle *xs, const char *backend, int sock, const char *bridge)
{
    CLEANUP_FREE char *configured = hotplug_read(xs, backend, "mtu");
    struct ifreq request;

    if (configured && configured[0])
        return atoi(configured);
    name_request(&request, bridge);
    return ioctl(sock, SIOCGIFMTU, &request) ? 0 : request.ifr_mtu;
}

static void set_mtu(struct xs_handle *xs, const char *backend, int sock, const char *interface,
                    int mtu)
{
    CLEANUP_FREE char *frontend = hotplug_read(xs, backend, "frontend");
    struct ifreq request;
    char text[16];

    if (mtu <= 0)
        return;
    name_request(&request, interface);
    request.ifr_mtu = mtu;
    (void)ioctl(sock, SIOCSIFMTU, &request);
    (void)snprintf(text, sizeof(text), "%d", mtu);
    if (frontend)
        (void)hotplug_write(xs, frontend, "mtu", text);
}

static bool join(int sock, const char *bridge, const char *interface)
{
    struct ifreq request;

    name_request(&request, bridge);
    request.ifr_ifindex = (int)if_nametoindex(interface);
    return request.ifr_ifindex && !ioctl(sock, SIOCBRADDIF, &request);
}

static bool connect_vif(struct xs_handle *xs, const char *backend, const char *interface,
                        const char *bridge)
{
    CLEANUP_CLOSE int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (sock < 0 || strlen(interface) >= IFNAMSIZ || !set_flags(sock, interface, false))
        return false;
    set_address(sock, interface);
    set_mtu(xs, backend, sock, interface, wanted_mtu(xs, backend, sock, bridge));
    /* The stock script can begin from any point between here and there. */
    return join(sock, bridge, interface) && set_flags(sock, interface, true) &&
           hotplug_write(xs, backend, "hotplug-status", "connected");
}

bool hotplug_vif(struct xs_handle *xs, const char *backend, const char *interface)
{
    CLEANUP_FREE char *bridge = hotplug_read(xs, backend, "bridge");
    CLEANUP_FREE char *name = hotplug_read(xs, backend, "vifname");
    CLEANUP_FREE char *addresses = hotplug_read(xs, backend, "ip");

    if (!bridge || !is_bridge(bridge) || (name && name[0]) || (addresses && addresses[0]))
        return false;
    if (has_hooks() || bridge_is_filtered())
        return false;
    return connect_vif(xs, backend, interface, bridge);
}
